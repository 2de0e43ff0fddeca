/**
 * An archive of as many segments as one likes, which cost nothing: each is made when it is read, with one commit and a switch of segments,
 * as PostgreSQL writes them. What is asked of the storage is counted.
 */
import type { Archive } from '../../src/archive/archive.ts';
import { leaseName, timelinePrefix } from '../../src/archive/keys.ts';
import { type BackupManifest, storeManifest } from '../../src/archive/manifest.ts';
import { putDocument } from '../../src/archive/sealed-document.ts';
import { walIdentity } from '../../src/archive/wal-archive.ts';
import { type Bytes, bytesOf } from '../../src/bytes.ts';
import { sealObject } from '../../src/codec/object.ts';
import type { Lsn } from '../../src/postgres/lsn.ts';
import { crcOf } from '../../src/postgres/wal-crc.ts';
import { dateToWalTime } from '../../src/postgres/wal-events.ts';
import { parseWalFileName, segmentNameAt } from '../../src/postgres/wal-file-name.ts';
import type {
  DeleteReport,
  GetOptions,
  ListOptions,
  PutOptions,
  Storage,
  StoredBody,
  StoredObject,
} from '../../src/storage/storage.ts';
import { testManifest } from './backups.ts';
import { makeArchive } from './forged-backup.ts';
import { bytesOfSealed, sealOptions } from './objects.ts';
import { makeSegment, testSystemIdentifier } from './segment.ts';

const segmentBytes = 2 ** 20;
/** The commit of the segment's number ends a minute after the one before. */
const epochMs = Date.UTC(2026, 0, 1);
const minuteMs = 60_000;
const host = 'test-host';
/** Behind the long header of a segment's first page, and behind the commit. */
const [commitOffset, switchOffset] = [40, 80];

export const commitTime = (segment: number): Date => new Date(epochMs + segment * minuteMs);
export const commitLsn = (segment: number): Lsn => BigInt(segment * segmentBytes + commitOffset);

interface LongArchiveOptions {
  readonly count: number;
  readonly backups: readonly number[];
  /** When the commit in a segment ended, where that is not a minute after the one before. */
  readonly timeOf?: (segment: number) => Date;
}

export class LongArchive implements Storage {
  readonly url: string;
  readonly #inner: Storage;
  readonly #count: number;
  readonly #timeOf: (segment: number) => Date;
  /** Keys that were read, in their order, and prefixes that were listed. */
  readonly reads: string[] = [];
  readonly lists: string[] = [];

  private constructor(inner: Storage, { count, timeOf = commitTime }: LongArchiveOptions) {
    [this.url, this.#inner, this.#count, this.#timeOf] = [inner.url, inner, count, timeOf];
  }

  /** Of the segments 1 to `count` of timeline 1, with a backup that was taken within each of some of them. `root` exists. */
  static async make(root: string, options: LongArchiveOptions) {
    const archive = await makeArchive(root);
    for (const segment of options.backups) await storeBackup(archive, segment);
    return new LongArchive(archive.storage, options);
  }

  put(key: string, body: Uint8Array | Bytes, options?: PutOptions): Promise<void> {
    return this.#inner.put(key, body, options);
  }

  async get(key: string, options: GetOptions = {}): Promise<StoredBody> {
    this.reads.push(key);
    if (!key.startsWith(walPrefix)) return this.#inner.get(key, options);
    const object = await objectOf(key.slice(key.lastIndexOf('/') + 1), this.#timeOf);
    const { offset = 0, length = object.length } = options.range ?? {};
    return { sizeBytes: object.length, body: bytesOf(object.subarray(offset, offset + length)) };
  }

  async *list(prefix: string, options?: ListOptions): AsyncGenerator<StoredObject> {
    this.lists.push(prefix);
    yield* this.#inner.list(prefix, options);
    for (let segment = 1; segment <= this.#count; segment += 1) {
      const name = nameOf(segment);
      const key = `${walPrefix}${name.slice(0, 16)}/${name}`;
      const isWanted = key.startsWith(prefix) && (options?.after === undefined || key > options.after);
      if (isWanted) yield { key, sizeBytes: 500, modifiedAt: commitTime(segment) };
    }
  }

  delete(keys: readonly string[]): Promise<DeleteReport> {
    return this.#inner.delete(keys);
  }
}

const walPrefix = timelinePrefix(testSystemIdentifier, 1);

const nameOf = (segment: number) => segmentNameAt(1, BigInt(segment * segmentBytes), segmentBytes);

/** From the middle of its segment to its end, which took half a minute. */
async function storeBackup(archive: Archive, segment: number): Promise<void> {
  const startLsn = BigInt(segment * segmentBytes + switchOffset);
  const consistentLsn = BigInt((segment + 1) * segmentBytes);
  const finishedAt = commitTime(segment + 0.5).toISOString();
  const digits = finishedAt.replaceAll(/[-:]|\.\d+/g, '');
  const id = `${digits}-${nameOf(segment)}-full-${String(segment).padStart(8, '0')}`;
  const lsns = { startLsn, stopLsn: consistentLsn, consistentLsn };
  const own = { id, timeline: 1, systemIdentifier: testSystemIdentifier, walSegmentBytes: segmentBytes };
  const uses: BackupManifest['uses'] = { [id]: [[1, 2]] };
  const manifest = { ...testManifest, ...lsns, ...own, startedAt: finishedAt, finishedAt, uses };
  await storeManifest(archive, manifest, { host });
  await putDocument(archive, { kind: 'lease', name: leaseName(id, 'closed') }, { id }, { host });
}

async function objectOf(name: string, timeOf: (segment: number) => Date): Promise<Buffer> {
  const file = parseWalFileName(name);
  if (file === undefined) throw new Error(`no segment: ${name}`);
  const identity = walIdentity({ systemIdentifier: testSystemIdentifier } as Archive, file);
  return bytesOfSealed(await sealObject(() => bytesOf(contentOf(name, timeOf)), { ...sealOptions, ...identity }));
}

/** A commit, and the switch that ends the segment. */
function contentOf(name: string, timeOf: (segment: number) => Date): Buffer {
  const content = makeSegment(name, { fill: 'zeros' });
  const start = content.readBigUInt64LE(8);
  const time = Buffer.alloc(8);
  time.writeBigInt64LE(dateToWalTime(timeOf(Number(start) / segmentBytes)));
  const before = start - BigInt(segmentBytes - switchOffset);
  record({ previous: before, resourceManager: 1, info: 0, xid: 800, data: time }).copy(content, commitOffset);
  const commit = start + BigInt(commitOffset);
  record({ previous: commit, resourceManager: 0, info: 0x40, xid: 0 }).copy(content, switchOffset);
  return content;
}

interface RecordContent {
  readonly previous: Lsn;
  readonly resourceManager: number;
  readonly info: number;
  readonly xid: number;
  readonly data?: Buffer;
}

/** @see PostgreSQL `src/include/access/xlogrecord.h` */
function record({ previous, resourceManager, info, xid, data }: RecordContent): Buffer {
  const body = data === undefined ? Buffer.alloc(0) : Buffer.from([255, data.length, ...data]);
  const header = Buffer.alloc(24);
  header.writeUInt32LE(header.length + body.length, 0);
  header.writeUInt32LE(xid, 4);
  header.writeBigUInt64LE(previous, 8);
  header[16] = info;
  header[17] = resourceManager;
  header.writeUInt32LE(crcOf(header, 0, 20, crcOf(body, 0, body.length)) >>> 0, 20);
  return Buffer.concat([header, body]);
}
