/** Base backups without a server, sealed properly whatever their lists of files say: what somebody makes who knows the keys. */

import type { Archive } from '../../src/archive/archive.ts';
import type { PartLine } from '../../src/archive/files-line.ts';
import { sealLines } from '../../src/archive/files-list.ts';
import { leaseName } from '../../src/archive/keys.ts';
import { type BackupManifest, storeManifest } from '../../src/archive/manifest.ts';
import { storeStream } from '../../src/archive/part.ts';
import { enterCluster, makeRepository } from '../../src/archive/repository.ts';
import { putDocument } from '../../src/archive/sealed-document.ts';
import { bytesOf } from '../../src/bytes.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import { FileStorage } from '../../src/storage/file.ts';
import { testSystemIdentifier } from './segment.ts';

export const forgedId = '20261120T083000Z-000000010000000000000002-full-0badcafe';

const host = 'test-host';
const stream = { level: 3, sizeHint: 0 };

/** A repository in a folder that exists, with a cluster entered and nothing else. */
export async function makeArchive(root: string, keys: Keys = noKeys): Promise<Archive> {
  const storage = new FileStorage(root, { idleMs: 10_000, requestMs: 10_000 });
  const repository = await makeRepository(storage, { conditionalPut: 'honoured', delete: 'allowed' });
  await enterCluster(storage, { repository, systemIdentifier: testSystemIdentifier, host });
  return { storage, systemIdentifier: testSystemIdentifier, keys };
}

/** A line as it stands in a list, or what an enemy has put there instead. */
export type RawLine = Readonly<Record<string, unknown>> | string;

export function linesText(lines: readonly RawLine[]): Buffer {
  return Buffer.from(lines.map((line) => `${typeof line === 'string' ? line : JSON.stringify(line)}\n`).join(''));
}

/** The list of these lines, with a seal that fits them. */
export function sealedList(lines: readonly RawLine[]): AsyncIterable<Uint8Array> {
  return sealLines(bytesOf(linesText(lines)), () => countLines(lines));
}

function countLines(lines: readonly RawLine[]) {
  const count = (type: string) => lines.filter((line) => typeof line === 'object' && line.type === type).length;
  return { parts: count('part'), files: count('file'), folders: count('folder'), tablespaces: count('tablespace') };
}

function rawBytesOf(lines: readonly RawLine[]): number {
  const sizes = lines.map((line) => (typeof line === 'object' && typeof line.size === 'number' ? line.size : 0));
  return sizes.reduce((sum, size) => sum + Math.max(0, size), 0);
}

export interface Forgery {
  /** The raw content of each part. */
  readonly parts: readonly Uint8Array[];
  /** Parts by their numbers less one. */
  readonly list: (parts: readonly PartLine[]) => readonly RawLine[];
  readonly manifest?: Partial<BackupManifest>;
}

/** Stores and confirms a backup named `forgedId`. */
export async function storeForged(archive: Archive, { parts, list, manifest = {} }: Forgery): Promise<void> {
  const made: PartLine[] = [];
  for (const [index, content] of parts.entries()) {
    const number = index + 1;
    const commitment = await storeStream(archive, { backup: forgedId, part: number }, bytesOf(content), stream);
    const last = number === parts.length ? ({ last: true } as const) : {};
    made.push({ type: 'part', index, backup: forgedId, number, ...commitment, ...last });
  }
  const lines = list(made);
  const files = await storeStream(archive, { backup: forgedId, part: 'files' }, sealedList(lines), stream);
  const statistics = { ...countLines(lines), rawBytes: rawBytesOf(lines), storedBytes: 0 };
  const uses = { [forgedId]: [[1, parts.length]] as const };
  const written = { ...plainManifest, statistics, files, uses, ...manifest };
  await storeManifest(archive, written, { host });
  await putDocument(archive, { kind: 'lease', name: leaseName(forgedId, 'closed') }, { id: forgedId }, { host });
}

export const plainManifest: Omit<BackupManifest, 'statistics' | 'files' | 'uses'> = {
  id: forgedId,
  type: 'full',
  systemIdentifier: testSystemIdentifier,
  postgres: { version: '17.10', versionNumber: 170_010 },
  timeline: 1,
  startLsn: 0x200028n,
  stopLsn: 0x200158n,
  consistentLsn: 0x200158n,
  startedAt: '2026-11-20T08:30:00.000Z',
  finishedAt: '2026-11-20T08:31:00.000Z',
  walSegmentBytes: 1024 * 1024,
  pageBytes: 8192,
  checksums: false,
  badPages: { count: 0, pages: [] },
  source: { host, dataDirectory: '/data', standby: false },
  tablespaces: [],
  label: 'test',
  backupLabel: '',
  tablespaceMap: '',
  manifestChecksums: 'CRC32C',
  annotations: {},
};
