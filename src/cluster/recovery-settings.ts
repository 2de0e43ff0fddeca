/**
 * What a restored cluster is told before its first start: every recovery setting explicitly, empty where it is unused (H22), since what
 * came along in the backup's configuration would count otherwise; and the file that makes PostgreSQL recover at all.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { bytesOf } from '../bytes.ts';
import { replaceFile, syncFolder } from '../durable-file.ts';
import { HostError, systemErrorCode, systemErrorReason } from '../errors.ts';

export interface RecoverySettings {
  readonly signal: 'recovery.signal' | 'standby.signal';
  /** Names and values of postgresql.conf. */
  readonly settings: Readonly<Record<string, string>>;
  /** Lines of comment above them. */
  readonly comment: readonly string[];
}

const autoConf = 'postgresql.auto.conf';
const lineFeed = 10;

/**
 * Appends to `postgresql.auto.conf`, which is read last of all, and makes the signal file. Durable when it returns.
 * @param give  gives a file to its owner
 * @throws HostError
 */
export async function writeRecoverySettings(
  folder: string,
  { signal, settings, comment }: RecoverySettings,
  give: (path: string) => Promise<void>,
): Promise<void> {
  try {
    // as bytes: its encoding is that of whichever database it was set in
    const before = await readFile(`${folder}/${autoConf}`).catch((error: unknown) => {
      if (systemErrorCode(error) === 'ENOENT') return Buffer.alloc(0);
      throw error;
    });
    const text = [
      before.length === 0 || before.at(-1) === lineFeed ? '' : '\n',
      ...comment.map((line) => `# ${line}\n`),
      ...Object.entries(settings).map(([name, value]) => `${name} = ${quote(value)}\n`),
    ].join('');
    await replaceFile(`${folder}/${autoConf}`, bytesOf(before, Buffer.from(text)));
    await give(`${folder}/${autoConf}`);
    await writeFile(`${folder}/${signal}`, '', { mode: 0o600, flush: true });
    await give(`${folder}/${signal}`);
    await syncFolder(folder);
  } catch (error) {
    if (systemErrorCode(error) === undefined) throw error;
    throw new HostError(`could not write the recovery settings in "${folder}": ${systemErrorReason(error)}`, {
      cause: error,
    });
  }
}

/** A string of postgresql.conf, in which a backslash escapes as in C. */
function quote(value: string): string {
  return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "''").replaceAll('\n', '\\n')}'`;
}
