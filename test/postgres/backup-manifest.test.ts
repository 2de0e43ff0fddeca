/** `backup_manifest`, byte for byte as PostgreSQL writes it. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32c } from '@node-rs/crc32';
import { afterAll, expect, it } from 'vitest';
import { toFilePath } from '../../src/byte-path.ts';
import { collect } from '../../src/bytes.ts';
import {
  type ChecksumAlgorithm,
  formatBackupManifest,
  formatCrc32c,
  type ManifestFile,
  type ManifestOptions,
} from '../../src/postgres/backup-manifest.ts';
import { parseLsn } from '../../src/postgres/lsn.ts';
import { verifyBackup } from '../support/backup-manifest.ts';
import { temporaryFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { run } from '../support/run.ts';
import { hasTool } from '../support/tools.ts';
import { takeBaseBackup } from './base-backup.ts';

const modifiedAt = new Date('2026-11-20T08:30:00.999Z');
const walRanges = [
  { timeline: 3, startLsn: 0x1_0200_0000n, endLsn: 0x1_0200_0100n },
  { timeline: 2, startLsn: 0x28n, endLsn: 0x1_0200_0000n },
];

async function* streamOf(files: readonly ManifestFile[]): AsyncGenerator<ManifestFile> {
  yield* files;
}

function format(files: readonly ManifestFile[], options: ManifestOptions): Promise<Buffer> {
  return collect(formatBackupManifest(streamOf(files), options), 2 ** 30);
}

it('H46: writes every digit of the system identifier, every name and every range', async () => {
  const files: ManifestFile[] = [
    { path: 'PG_VERSION', sizeBytes: 3, modifiedAt, checksum: { algorithm: 'CRC32C', hex: '0a1b2c3d' } },
    { path: 'base/5/a"\\\n\x01\xc3\xbc', sizeBytes: 2 ** 40, modifiedAt },
    { path: 'base/5/\xff', sizeBytes: 0, modifiedAt: new Date(-500), checksum: { algorithm: 'SHA224', hex: 'ab' } },
  ];
  const body = `"Files": [
{ "Path": "PG_VERSION", "Size": 3, "Last-Modified": "2026-11-20 08:30:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "0a1b2c3d" },
{ "Path": "base/5/a\\"\\\\\\n\\u0001ü", "Size": 1099511627776, "Last-Modified": "2026-11-20 08:30:00 GMT" },
{ "Encoded-Path": "626173652f352fff", "Size": 0, "Last-Modified": "1969-12-31 23:59:59 GMT", "Checksum-Algorithm": "SHA224", "Checksum": "ab" }
],
"WAL-Ranges": [
{ "Timeline": 3, "Start-LSN": "1/2000000", "End-LSN": "1/2000100" },
{ "Timeline": 2, "Start-LSN": "0/28", "End-LSN": "1/2000000" }
],
`;
  const seal = (text: string) => `${text}"Manifest-Checksum": "${createHash('sha256').update(text).digest('hex')}"}\n`;
  const options = { systemIdentifier: '18446744073709551557', walRanges };
  const head = '{ "PostgreSQL-Backup-Manifest-Version": ';
  const expected = seal(`${head}2,\n"System-Identifier": 18446744073709551557,\n${body}`);
  for (const postgresMajor of [17, 18]) expect(`${await format(files, { ...options, postgresMajor })}`).toBe(expected);
  for (const postgresMajor of [15, 16]) {
    expect(`${await format(files, { ...options, postgresMajor })}`).toBe(seal(`${head}1,\n${body}`));
  }
});

it('streams: a manifest of a hundred thousand files comes in small chunks', async () => {
  async function* many(): AsyncGenerator<ManifestFile> {
    for (let oid = 1; oid <= 100_000; oid += 1) yield { path: `base/5/${oid}`, sizeBytes: oid, modifiedAt };
  }
  let [sizeBytes, greatest] = [0, 0];
  for await (const chunk of formatBackupManifest(many(), { postgresMajor: 17, systemIdentifier: '1', walRanges })) {
    sizeBytes += chunk.length;
    greatest = Math.max(greatest, chunk.length);
  }
  expect(sizeBytes).toBeGreaterThan(8_000_000);
  expect(greatest).toBeLessThan(128 * 1024);
});

it.each([
  ['', '00000000'],
  ['123456789', '839206e3'], // the catalogued check value E3069283, low byte first
])('writes the CRC-32C of %j low byte first', (text, hex) => expect(formatCrc32c(crc32c(text))).toBe(hex));

const algorithms = ['CRC32C', 'SHA224', 'SHA256', 'SHA384', 'SHA512', 'NONE'];
const manifests = [15, 17, 18].flatMap((major) =>
  (major === 17 ? algorithms : ['CRC32C']).map((name) => ({ major, name })),
);

it.each(manifests)(
  'is byte for byte what PostgreSQL $major writes with $name, and of the same sums',
  async ({ major, name }) => {
    const server = await runningServer(major);
    const folder = temporaryFolder('backup');
    const theirs = await takeBaseBackup(server, folder, name);
    const { files, options } = takeApart(`${theirs}`, major);
    expect(files.length).toBeGreaterThan(300);
    expect(files.some(({ path }) => path === 'odd/\xff"\\')).toBe(true);
    expect(`${await format(files, options)}`).toBe(`${theirs}`);

    const algorithm = name === 'NONE' ? undefined : (name as ChecksumAlgorithm);
    const own = files.map((file) => ({ ...file, checksum: algorithm && checksumOf(folder, file.path, algorithm) }));
    expect(`${await format(own, options)}` === `${theirs}`).toBe(true);
  },
);

const pgVerifybackup = '/usr/lib/postgresql/15/bin/pg_verifybackup';
it.skipIf(!hasTool(pgVerifybackup))("satisfies Debian's pg_verifybackup", async () => {
  const dataDirectory = join(temporaryFolder(), 'data');
  await takeBaseBackup(await runningServer(15), dataDirectory);
  const files = walk(dataDirectory, '').filter(({ path }) => path !== 'backup_manifest');
  const options = { postgresMajor: 15, systemIdentifier: '1', walRanges };
  writeFileSync(join(dataDirectory, 'backup_manifest'), await format(files, options));
  expect(await run(pgVerifybackup, ['-n', dataDirectory], { asRoot: true })).toMatchObject({ code: 0, stderr: '' });
  expect(await verifyBackup(dataDirectory)).toEqual([]);
});

/** By their version. */
const servers = new Map<number, PostgresServer>();
afterAll(async () => {
  for (const server of servers.values()) await server.remove();
});

async function runningServer(major: number): Promise<PostgresServer> {
  const running = servers.get(major);
  if (running !== undefined) return running;
  const server = PostgresServer.create({ major, isSmall: true });
  servers.set(major, server);
  await server.start();
  await server.query(`copy (select 'x') to program 'mkdir odd; cat > "$(printf "odd/\\377\\"\\\\\\\\")"'`);
  return server;
}

/** A server's manifest in the members of ours. */
function takeApart(text: string, postgresMajor: number): { files: ManifestFile[]; options: ManifestOptions } {
  const json = JSON.parse(text);
  const files = json.Files.map((file: Record<string, string>) => ({
    path: Buffer.from(file.Path ?? file['Encoded-Path'] ?? '', file.Path === undefined ? 'hex' : 'utf8').toString(
      'latin1',
    ),
    sizeBytes: file.Size,
    modifiedAt: new Date(file['Last-Modified'] ?? ''),
    checksum: file.Checksum && { algorithm: file['Checksum-Algorithm'], hex: file.Checksum },
  }));
  const ranges = json['WAL-Ranges'].map((range: Record<string, string>) => ({
    timeline: range.Timeline,
    startLsn: parseLsn(range['Start-LSN'] ?? ''),
    endLsn: parseLsn(range['End-LSN'] ?? ''),
  }));
  const systemIdentifier = /"System-Identifier": (\d+)/.exec(text)?.[1] ?? '';
  return { files, options: { postgresMajor, systemIdentifier, walRanges: ranges } };
}

function checksumOf(folder: string, path: string, algorithm: ChecksumAlgorithm) {
  const content = readFileSync(toFilePath(join(folder, path)));
  if (algorithm === 'CRC32C') return { algorithm, hex: formatCrc32c(crc32c(content)) };
  return { algorithm, hex: createHash(algorithm.toLowerCase()).update(content).digest('hex') };
}

function walk(root: string, folder: string): ManifestFile[] {
  return readdirSync(toFilePath(join(root, folder)), 'latin1').flatMap((name) => {
    const path = join(folder, name);
    if (path === 'pg_wal') return [];
    const stats = statSync(toFilePath(join(root, path)));
    if (stats.isDirectory()) return walk(root, path);
    return { path, sizeBytes: stats.size, modifiedAt: stats.mtime, checksum: checksumOf(root, path, 'CRC32C') };
  });
}
