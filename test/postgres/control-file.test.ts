/** `global/pg_control`: which cluster this is, and nothing said where that is not known. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it, onTestFinished } from 'vitest';
import { type ControlFile, parseControlFile } from '../../src/postgres/control-file.ts';
import { isWhole } from '../../src/postgres/control-file-crc.ts';
import { formatLsn } from '../../src/postgres/lsn.ts';
import { PostgresServer, type ServerOptions } from '../support/postgres.ts';
import { run } from '../support/run.ts';
import { makeControlFile } from '../support/segment.ts';
import { hasTool } from '../support/tools.ts';

it('reads every system identifier digit for digit', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 1n, max: 2n ** 64n - 1n }), (identifier) => {
      expect(parseControlFile(makeControlFile(identifier.toString()))?.systemIdentifier).toBe(identifier.toString());
    }),
  );
});

type Change = (file: Buffer) => Buffer | number;
const foreign: readonly (readonly [string, Change])[] = [
  ['empty', () => Buffer.alloc(0)],
  ['too short', (file) => file.subarray(0, 8191)],
  ['too long', (file) => Buffer.concat([file, Buffer.alloc(1)])],
  ['all zeros', (file) => file.fill(0)],
  ['of version 0', (file) => file.writeUInt32LE(0, 8)],
  ['in the other byte order', (file) => file.swap64()],
];

it.each(foreign)('takes no file that is %s for one', (_what, change) => {
  const file = makeControlFile();
  const changed = change(file);
  expect(parseControlFile(typeof changed === 'number' ? file : changed)).toBeUndefined();
});

it.each([
  ['another layout', (file: Buffer) => file.writeDoubleLE(0, 208), { timeline: undefined, pageSizeBytes: undefined }],
  ['an impossible size', (file: Buffer) => file.writeUInt32LE(12345, 228), { timeline: 1, state: 'starting up' }],
] as const)('says no segment size with %s, but still which cluster it is', (_what, change, others) => {
  const file = makeControlFile('7312345678901234567');
  change(file);
  expect(parseControlFile(file)).toMatchObject({
    systemIdentifier: '7312345678901234567',
    controlVersion: 1300,
    segmentSizeBytes: undefined,
    ...others,
  });
});

it('says of a version to come only what archiving needs, and takes it for torn rather than for whole', () => {
  const file = makeControlFile();
  file.writeUInt32LE(1900, 8);
  const control = parseControlFile(file);
  expect(control).toMatchObject({ timeline: 1, segmentSizeBytes: 2 ** 20 });
  const others = [control?.state, control?.checkpoint, control?.redo, control?.minRecoveryPoint, control?.checksums];
  const sizes = [control?.minRecoveryTimeline, control?.pageSizeBytes, control?.relationSegmentBlocks];
  expect([...others, ...sizes]).toEqual(Array(8).fill(undefined));
  expect(isWhole(file, { controlVersion: 1900 })).toBe(false);
});

it('knows no state that PostgreSQL does not', () => {
  const file = makeControlFile();
  file.writeUInt32LE(7, 16);
  expect(parseControlFile(file)?.state).toBeUndefined();
});

it.each([15, 17, 18])(
  'reads the states, the locations and the layout that PostgreSQL %i tells itself',
  async (major) => {
    const primary = create({ major, checksums: major !== 17, walSegmentSize: 1 });
    expect(readControl(primary)).toMatchObject({ state: 'shut down', checksums: major !== 17 });
    await primary.start();
    expect(readControl(primary)).toMatchObject({
      state: 'in production',
      minRecoveryPoint: 0n,
      minRecoveryTimeline: 0,
    });
    expect(describe(readControl(primary))).toEqual(await tellItself(primary));

    const standby = await primary.backup();
    onTestFinished(() => standby.remove());
    standby.signal('standby.signal');
    standby.configure({ restore_command: `cp ${primary.dataDirectory}/pg_wal/%f %p` });
    await standby.start();
    const control = readControl(standby);
    expect(control).toMatchObject({ state: 'in archive recovery', minRecoveryTimeline: 1 });
    expect(control.minRecoveryPoint).toBeGreaterThan(control.redo ?? 0n);
    expect(describe(control)).toEqual(await tellItself(standby));
    await standby.stop();
    expect(readControl(standby).state).toBe('shut down in recovery');
  },
);

const debian = '/usr/lib/postgresql/15/bin';
it.skipIf(!hasTool(`${debian}/pg_controldata`))("reads the same as Debian's pg_controldata", async () => {
  const server = create({ major: 15, checksums: true });
  const { stdout } = await run(`${debian}/pg_controldata`, [server.dataDirectory]);
  const value = (name: string) => new RegExp(`^${name}: +(.*)$`, 'm').exec(stdout)?.[1];
  expect(describe(readControl(server))).toEqual({
    catalog: value('Catalog version number'),
    checkpoint: value('Latest checkpoint location'),
    redo: value("Latest checkpoint's REDO location"),
    minRecovery: value('Minimum recovery ending location'),
    minRecoveryTimeline: value("Min recovery ending loc's timeline"),
    page: value('Database block size'),
    segment: value('Blocks per segment of large relation'),
    checksums: value('Data page checksum version'),
  });
  expect(readControl(server).state).toBe(value('Database cluster state'));
});

it.each([15, 17, 18])('finds every flipped bit of the control file of PostgreSQL %i', (major) => {
  const server = create({ major });
  const file = readFileSync(join(server.dataDirectory, 'global/pg_control'));
  const { controlVersion } = readControl(server);
  const used = { controlVersion };
  const end = controlVersion === 1800 ? 296 : 292;
  for (let bit = 0; bit < end * 8; bit += 1) {
    const flipped = Buffer.from(file);
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    if (isWhole(flipped, used)) throw new Error(`a flip of bit ${bit} was not seen`);
  }
  expect(isWhole(file, used)).toBe(true);
  expect(isWhole(file.subarray(0, 4096), used)).toBe(false);
});

function create(options: ServerOptions): PostgresServer {
  const server = PostgresServer.create(options);
  onTestFinished(() => server.remove());
  return server;
}

function readControl(server: PostgresServer): ControlFile {
  const file = readFileSync(join(server.dataDirectory, 'global/pg_control'));
  const control = parseControlFile(file);
  if (control === undefined || !isWhole(file, control)) throw new Error('the control file is not whole');
  return control;
}

function describe(control: ControlFile) {
  const lsn = (value: bigint | undefined) => (value === undefined ? undefined : formatLsn(value));
  return {
    catalog: `${control.catalogVersion}`,
    checkpoint: lsn(control.checkpoint),
    redo: lsn(control.redo),
    minRecovery: lsn(control.minRecoveryPoint),
    minRecoveryTimeline: `${control.minRecoveryTimeline}`,
    page: `${control.pageSizeBytes}`,
    segment: `${control.relationSegmentBlocks}`,
    checksums: control.checksums === true ? '1' : '0',
  };
}

async function tellItself(server: PostgresServer) {
  const [row = []] = await server.query(
    `select catalog_version_no, checkpoint_lsn, redo_lsn, min_recovery_end_lsn, min_recovery_end_timeline,
            database_block_size, blocks_per_segment, data_page_checksum_version
       from pg_control_system(), pg_control_checkpoint(), pg_control_recovery(), pg_control_init()`,
  );
  const [catalog, checkpoint, redo, minRecovery, minRecoveryTimeline, page, segment, checksums] = row;
  return { catalog, checkpoint, redo, minRecovery, minRecoveryTimeline, page, segment, checksums };
}
