/** What one call of wal-fetch is about: who asks for which file, where it is to be put, and with what it is found. */
import type { Archive } from '../../archive/archive.ts';
import type { Keys } from '../../codec/keys.ts';
import type { ControlFile } from '../../postgres/control-file.ts';
import type { SegmentName, WalFileName } from '../../postgres/wal-file-name.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Context } from '../context.ts';
import type { Trying } from './trying.ts';

/** For whom and where it is fetched. */
export interface Place extends Context {
  /** `%p`, absolute. */
  readonly target: string;
  readonly dataDirectory: string | undefined;
  /** PostgreSQL goes on by itself after a failure, rather than stop. */
  readonly standby: boolean;
}

export interface Fetch extends Place {
  readonly storage: Storage;
  readonly keys: Keys;
  readonly file: WalFileName;
  /** `--timeline`: the one that is recovered along. */
  readonly timeline: number | undefined;
  /** `--end-at`: no segment from this one on, of whichever timeline. */
  readonly endAt: SegmentName | undefined;
  /** `--beside`: this copy must not reach into tablespaces that are in use on this host. */
  readonly beside: boolean;
  /** PostgreSQL's recovery asks: the words of its command line in front of `%f`, as bin/wal-fetch compares them. Undefined: somebody else asks. */
  readonly wordsBefore: string | undefined;
  readonly background: StartBackground | undefined;
  readonly trying: Trying;
}

/** A process that waits, and is no child of the call any more. */
export interface Background {
  /** Its life is that of what it does. */
  readonly processId: number;
  /** Lets it begin. */
  readonly begin: () => Promise<void>;
  /** It is not wanted. */
  readonly leave: () => void;
}

/** Undefined where none may go on when the call has ended: a PostgreSQL would become its parent (H5). */
export type StartBackground = (folder: string) => Promise<Background | undefined>;

/** A segment, and the archive that it is looked for in. */
export interface SegmentFetch extends Fetch {
  readonly file: SegmentName;
  readonly archive: Archive;
  readonly control: ControlFile | undefined;
}
