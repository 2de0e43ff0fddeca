/** Segments that wait, a repository for them, and a server in recovery that asks for nothing: for calls like PostgreSQL's. */
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder, removeFolder } from '../../test/support/folders.ts';
import type { PostgresServer } from '../../test/support/postgres.ts';
import type { S3Endpoint } from '../../test/support/s3-server.ts';
import { waitFor } from '../../test/support/wait.ts';
import { type Calls, callAsPostgres } from './as-postgres.ts';
import { busyServerWithCopy, finishedSegments, finishSegments, letWait } from './busy-server.ts';
import { ownCommand, ownRepository } from './own-repository.ts';

interface Options {
  readonly segments: number;
  /** MiB. */
  readonly segmentSize?: number;
  readonly bucket?: S3Endpoint;
}

interface CallOptions {
  /** Words before the command, such as another variable. */
  readonly prefix?: string;
  readonly counter?: string;
  readonly controls?: Readonly<Record<string, string>>;
}

export class WaitingWal {
  readonly folder = makeFolder('wal-t-bench');
  readonly segments: readonly string[];
  readonly #server: PostgresServer;
  /** In recovery, and waiting for the end of its restore_command. */
  readonly #copy: PostgresServer;
  readonly #repository: ReturnType<typeof ownRepository>;

  private constructor(server: PostgresServer, copy: PostgresServer, { segments, bucket }: Options) {
    this.#server = server;
    this.#copy = copy;
    const [entrySegment = '', ...finished] = finishedSegments(server);
    this.segments = finished.slice(0, segments);
    const where = { folder: this.folder, name: 'repository', server, entrySegment };
    this.#repository = ownRepository(bucket === undefined ? where : { ...where, bucket });
  }

  static async prepare(options: Options): Promise<WaitingWal> {
    const { server, base } = await busyServerWithCopy(options);
    try {
      await finishSegments(server, options.segments + 1);
      letWait(server, []);
      return new WaitingWal(server, base, options);
    } catch (error) {
      await base.remove();
      await server.remove();
      throw error;
    }
  }

  /** Archives all into a repository that is as new. */
  push({ prefix = '', ...options }: CallOptions = {}): Calls {
    letWait(this.#server, []);
    this.#repository.renew();
    letWait(this.#server, this.segments);
    const command = `${prefix}${ownCommand('wal-push', this.#repository.config)} %p %f`;
    return callAsPostgres({ folder: this.#server.dataDirectory, command, ...options });
  }

  /** Fetches all that was archived before. */
  async fetch({ prefix = '', ...options }: CallOptions = {}): Promise<Calls> {
    const [hold, asked] = [join(this.folder, 'hold'), join(this.folder, 'asked')];
    writeFileSync(hold, '');
    rmSync(asked, { force: true });
    const waiting = `: >${asked}; while [ -e ${hold} ]; do sleep 0.1; done; exit 200`;
    this.#copy.configure({ archive_mode: 'off', restore_command: waiting });
    this.#copy.signal('recovery.signal');
    this.#copy.launch();
    try {
      await waitFor('the copy to ask', () => existsSync(asked));
      const command = `${prefix}${ownCommand('wal-fetch', this.#repository.config)} %f %p`;
      return callAsPostgres({ folder: this.#copy.dataDirectory, command, names: this.segments, ...options });
    } finally {
      rmSync(hold);
      await this.#copy.stop('SIGQUIT');
    }
  }

  async remove(): Promise<void> {
    await this.#copy.remove();
    await this.#server.remove();
    removeFolder(this.folder);
  }
}
