/** The base backup that lies in `test/vectors`: what it was made of, to make it again. Its words stand in the README there. */
import { type FilesLine, formatLine } from '../../src/archive/files-line.ts';
import type { BackupManifest } from '../../src/archive/manifest.ts';
import type { StreamedCommitment } from '../../src/codec/streamed.ts';
import { encodeTarHeader, tarEnd, tarPadding } from '../../src/codec/tar.ts';
import { testSystemIdentifier } from './segment.ts';
import { testBackupId } from './streamed.ts';

const mtimeSeconds = 1_763_627_400;
const owned = { uid: 26, gid: 26, mtimeNs: BigInt(mtimeSeconds) * 1_000_000_000n + 123_456_789n };
const member = { mode: 0o600, uid: 26, gid: 26, mtimeSeconds };

const page = Buffer.alloc(8192, 'page');
const control = Buffer.alloc(8192, 'control');
const vectorLabel = Buffer.from(
  'START WAL LOCATION: 1/23000028 (file 000000010000000100000023)\nCHECKPOINT LOCATION: 1/23000060\nBACKUP METHOD: streamed\n' +
    'BACKUP FROM: primary\nSTART TIME: 2026-11-20 08:30:00 UTC\nLABEL: vector\nSTART TIMELINE: 1\n',
);

/** Path as bytes, content; a folder has none. In the order of the list. */
type VectorFile = readonly [path: string, content?: Buffer];
const inParts: readonly (readonly VectorFile[])[] = [
  [
    ['base'],
    ['base.old', Buffer.alloc(0)],
    ['base/5'],
    ['base/5/16384', Buffer.concat([page, page])],
    ['caf\xe9', Buffer.from('a name that is no UTF-8\n')],
  ],
  [
    ['global/pg_control', control],
    ['backup_label', vectorLabel],
  ],
];

/** What the tar archives of its two parts hold. */
export const vectorFiles: readonly VectorFile[] = inParts.flat().filter(([, content]) => content !== undefined);

/** The content of its parts. */
export const vectorParts: readonly Buffer[] = inParts.map((files) =>
  Buffer.concat([
    ...files.flatMap(([path, content]) =>
      content === undefined
        ? [encodeTarHeader({ ...member, type: 'folder', path, mode: 0o700, sizeBytes: 0 })]
        : [
            encodeTarHeader({ ...member, type: 'file', path, sizeBytes: content.length }),
            content,
            Buffer.alloc(tarPadding(content.length)),
          ],
    ),
    tarEnd,
  ]),
);

/** The lines of its list of files, without the seal. */
export function vectorLines(commitments: readonly StreamedCommitment[]): FilesLine[] {
  return inParts.flatMap((files, index): FilesLine[] => {
    const commitment = commitments[index];
    if (commitment === undefined) throw new Error(`no commitment to part ${index}`);
    const last = index === inParts.length - 1 ? ({ last: true } as const) : {};
    const part: FilesLine = { type: 'part', index, backup: testBackupId, number: index + 1, ...commitment, ...last };
    let offset = 0;
    const lines = files.map(([path, content]): FilesLine => {
      offset += 512;
      if (content === undefined) return { type: 'folder', path, ...owned, mode: 0o700 };
      const skipBytes = offset;
      offset += content.length + tarPadding(content.length);
      const extents = content.length === 0 ? [] : [[content.length, index, skipBytes] as const];
      const own = { sizeBytes: content.length, ctimeNs: 5n, inode: 2n ** 63n + 5n, checksum: '0badcafe', mode: 0o600 };
      return { type: 'file', path, ...owned, ...own, extents };
    });
    return [part, ...lines];
  });
}

export const vectorCount = { parts: 2, files: 5, folders: 2, tablespaces: 0 };

export function vectorText(lines: readonly FilesLine[]): Buffer {
  return Buffer.from(lines.map(formatLine).join(''));
}

export function vectorManifest(files: StreamedCommitment, storedBytes: number): BackupManifest {
  return {
    id: testBackupId,
    type: 'full',
    systemIdentifier: testSystemIdentifier,
    postgres: { version: '17.10', versionNumber: 170010 },
    timeline: 1,
    startedAt: '2026-11-20T08:30:00.000Z',
    finishedAt: '2026-11-20T08:31:00.000Z',
    walSegmentBytes: 1048576,
    pageBytes: 8192,
    checksums: true,
    badPages: { count: 1, pages: [{ pathHex: '636166e9', block: 0 }] },
    source: { host: 'vector', dataDirectory: '/var/lib/postgresql/17/main', standby: false },
    tablespaces: [],
    label: 'vector',
    backupLabel: vectorLabel.toString('base64'),
    tablespaceMap: '',
    manifestChecksums: 'CRC32C',
    annotations: { why: 'to be read for ever' },
    statistics: {
      ...vectorCount,
      rawBytes: vectorFiles.reduce((sum, [, content]) => sum + (content?.length ?? 0), 0),
      storedBytes,
    },
    files,
    uses: { [testBackupId]: [[1, 2]] },
    startLsn: 0x1_2300_0028n,
    stopLsn: 0x1_2300_0138n,
    consistentLsn: 0x1_2300_0138n,
  };
}

/** When its documents say that they were stored. */
export const vectorPushedAt = new Date('2026-11-20T08:31:00.000Z');

export const vectorLease: Readonly<Record<string, object>> = {
  '000001': {
    id: testBackupId,
    host: 'vector',
    record: 1,
    walFloor: '1/23000028',
    timeline: 1,
    writtenAt: '2026-11-20T08:30:00.000Z',
  },
  closed: { id: testBackupId, host: 'vector', closedAt: '2026-11-20T08:31:00.000Z' },
};

/** A manifest as it stands in its object. */
export function manifestDocument({ startLsn, stopLsn, consistentLsn, ...members }: BackupManifest): object {
  const text = (lsn: bigint) => `${(lsn >> 32n).toString(16)}/${(lsn & 0xffff_ffffn).toString(16)}`.toUpperCase();
  return { ...members, startLsn: text(startLsn), stopLsn: text(stopLsn), consistentLsn: text(consistentLsn) };
}
