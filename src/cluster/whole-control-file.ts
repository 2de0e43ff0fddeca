/** `global/pg_control` read whole: PostgreSQL may be writing it, and a torn one is read again. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type BytePath, toBytePath } from '../byte-path.ts';
import { CorruptError, HostError } from '../errors.ts';
import { type ControlFile, controlFileBytes, parseControlFile } from '../postgres/control-file.ts';
import { isWhole } from '../postgres/control-file-crc.ts';
import { type DataFile, openDataFile } from './data-file.ts';

export interface WholeControlFile {
  readonly control: ControlFile;
  readonly bytes: Buffer;
  readonly attributes: Pick<DataFile, 'mode' | 'uid' | 'gid' | 'mtimeNs'>;
}

const attempts = 20;
const pauseMs = 50;

/** @throws HostError when it cannot be read, CorruptError when it stays damaged. */
export async function readWholeControlFile(dataDirectory: string): Promise<WholeControlFile> {
  const source: BytePath = `${toBytePath(dataDirectory)}/global/pg_control`;
  let before: Buffer | undefined;
  for (let attempt = 1; attempt <= attempts; attempt += 1) {
    const file = openDataFile(source, 'global/pg_control');
    if (file === undefined) {
      throw new HostError(`"${dataDirectory}" has no global/pg_control`, {
        hint: 'It is not the data directory of a PostgreSQL cluster. Give the right one.',
      });
    }
    try {
      const bytes = Buffer.concat([...file.content(Buffer.alloc(2 * controlFileBytes))]);
      const control = parseControlFile(bytes);
      // where a newer version keeps its checksum is not known: two readings that agree must do
      const isSound = control?.state === undefined ? before?.equals(bytes) : isWhole(bytes, control);
      if (control !== undefined && isSound === true) return { control, bytes, attributes: file };
      before = bytes;
    } finally {
      file.close();
    }
    await sleep(pauseMs);
  }
  throw new CorruptError(`global/pg_control in "${dataDirectory}" is damaged`, {
    detail: `its checksum was wrong in ${attempts} readings`,
    hint: 'The server may not start again. Look at its disk, and restore from an earlier backup elsewhere to be prepared.',
  });
}
