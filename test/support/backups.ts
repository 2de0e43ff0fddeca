/** What a backup stores, made without a cluster: for tests of the archive. */
import type { Archive } from '../../src/archive/archive.ts';
import type { BackupManifest } from '../../src/archive/manifest.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import { FileStorage } from '../../src/storage/file.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { temporaryFolder } from './folders.ts';
import { testSystemIdentifier } from './segment.ts';
import { testBackupId } from './streamed.ts';

const patient = { idleMs: 60_000, requestMs: 60_000 };

/** An archive in a folder that goes when the running test ends, unless it is told where. */
export function makeArchive(keys: Keys = noKeys, storage?: Storage): Archive {
  const place = storage ?? new FileStorage(temporaryFolder(), patient);
  return { storage: place, systemIdentifier: testSystemIdentifier, keys };
}

/** A sound manifest, with something in each member. */
export const testManifest: BackupManifest = {
  id: testBackupId,
  type: 'full',
  systemIdentifier: testSystemIdentifier,
  postgres: { version: '17.10', versionNumber: 170010 },
  timeline: 1,
  startLsn: 0x1_2300_0028n,
  stopLsn: 0x1_2400_0100n,
  consistentLsn: 0x1_2500_0000n,
  startedAt: '2026-11-20T08:30:00.000Z',
  finishedAt: '2026-11-20T08:31:00.000Z',
  walSegmentBytes: 16 * 2 ** 20,
  pageBytes: 8192,
  checksums: true,
  badPages: {
    count: 2,
    pages: [
      { path: 'base/5/16384', block: 7 },
      { pathHex: '636166e9', block: 0 },
    ],
  },
  source: { host: 'vector', dataDirectory: '/var/lib/postgresql/17/main', standby: false },
  tablespaces: [
    { oid: '16400', path: '/srv/fast' },
    { oid: '16401', pathHex: '2f636166e9' },
  ],
  label: 'wal-t',
  backupLabel: Buffer.from('START WAL LOCATION: 1/23000028 (file 000000010000000100000023)\n').toString('base64'),
  tablespaceMap: Buffer.from('16400 /srv/fast\n').toString('base64'),
  manifestChecksums: 'CRC32C',
  annotations: { why: 'before the upgrade' },
  statistics: { parts: 2, files: 3, folders: 2, tablespaces: 2, rawBytes: 1000, storedBytes: 700 },
  files: {
    objectBytes: 500,
    storedBytes: 500,
    rawBytes: 900,
    sha256: 'a'.repeat(64),
    tableSha256: 'b'.repeat(64),
  },
  uses: { [testBackupId]: [[1, 2]] },
};
