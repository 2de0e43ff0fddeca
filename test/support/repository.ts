/** A repository in a folder, its settings file, and the commands that PostgreSQL is configured with to use them. */
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { templatesFolder } from './cluster-template.ts';
import { copyFolder } from './copy-folder.ts';
import { filesBelow, temporaryFolder } from './folders.ts';
import { type Ended, launcher, type RunOptions, walT } from './run.ts';
import type { S3Endpoint } from './s3-server.ts';

export interface RepositoryOptions {
  /** Whose owner removes it; else one that goes when the running test ends, which a concurrent test or a hook cannot have. */
  readonly folder?: string;
  readonly root?: string;
  readonly settings?: Readonly<Record<string, string>>;
}

/** The settings of a repository in a bucket. */
export function s3Settings(s3: S3Endpoint, prefix: string): Record<string, string> {
  return {
    WALT_REPO: `s3://${s3.bucket}/${prefix}`,
    AWS_ENDPOINT_URL_S3: s3.endpoint,
    AWS_REGION: s3.region,
    AWS_ACCESS_KEY_ID: s3.accessKeyId,
    AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
  };
}

export class TestRepository {
  /** Holds the settings file; the repository is `folder/repo` unless told otherwise. */
  readonly folder: string;
  readonly root: string;
  readonly config: string;
  /** Do the settings name another place than `root`? */
  #isElsewhere = false;

  constructor(options: RepositoryOptions = {}) {
    this.folder = options.folder ?? temporaryFolder();
    this.root = options.root ?? join(this.folder, 'repo');
    this.config = join(this.folder, 'settings.env');
    this.configure(options.settings ?? {});
  }

  /** Writes the settings file anew; WALT_REPO is this repository unless `settings` says otherwise. */
  configure(settings: Readonly<Record<string, string>>): void {
    this.#isElsewhere = settings.WALT_REPO !== undefined;
    const lines = Object.entries({ WALT_REPO: `file://${this.root}`, ...settings });
    writeFileSync(this.config, lines.map(([name, value]) => `${name}=${value}\n`).join(''));
  }

  /** Runs a launcher with this repository's settings, as PostgreSQL's account. */
  run(name: string, words: readonly string[], options: RunOptions = {}): Promise<Ended> {
    return walT(name, words, { ...options, env: { WALT_CONFIG: this.config, ...options.env } });
  }

  /** By `wal-t init`; in a folder as a copy of what that has made once in this run of the tests, with an id of its own. */
  async init(): Promise<this> {
    const folder = this.#isElsewhere || existsSync(this.root) ? undefined : templatesFolder();
    const template = folder === undefined ? undefined : join(folder, 'repository');
    if (template !== undefined && existsSync(template)) {
      await copyFolder(template, this.root);
      const path = join(this.root, 'repository.json');
      const own = { repository: randomUUID(), createdAt: new Date().toISOString() };
      const document = { ...(JSON.parse(readFileSync(path, 'utf8')) as object), ...own };
      writeFileSync(path, `${JSON.stringify(document, undefined, 2)}\n`);
      return this;
    }
    const { code, stderr } = await this.run('wal-t', ['init']);
    if (code !== 0) throw new Error(stderr);
    if (template !== undefined) await this.#keepAs(template);
    return this;
  }

  async #keepAs(template: string): Promise<void> {
    const made = `${template}.${randomUUID()}`;
    await copyFolder(this.root, made);
    try {
      renameSync(made, template);
    } catch (error) {
      if (!existsSync(template)) throw error;
      rmSync(made, { recursive: true }); // another one was faster
    }
  }

  /** For a server's `settings`: archives into and recovers from this repository. */
  get serverSettings(): Record<string, string> {
    const command = (name: string, words: string) => `WALT_CONFIG=${this.config} ${launcher(name)} ${words}`;
    return {
      archive_mode: 'on',
      archive_command: command('wal-push', '%p %f'),
      restore_command: command('wal-fetch', '%f %p'),
    };
  }

  /** The relative paths of all files, temporary ones included, in order. */
  files(): string[] {
    return filesBelow(this.root);
  }

  /** The path of the object of an archived file, of whichever cluster has it. */
  object(name: string): string {
    const found = this.files().find((path) => path.endsWith(`/${name}`));
    if (found === undefined) throw new Error(`${name} is not stored`);
    return join(this.root, found);
  }
}
