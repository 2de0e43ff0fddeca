/** WAL in pieces, from anywhere, damaged, interrupted by a crash or a new timeline: the same records, or an end, and never a false one. */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { parseLsn } from '../../src/postgres/lsn.ts';
import { crcOf } from '../../src/postgres/wal-crc.ts';
import { readWalRecords } from '../../src/postgres/wal-record.ts';
import type { PostgresServer } from '../support/postgres.ts';
import {
  createServer,
  eventLine,
  events,
  gather,
  listedEvent,
  listedLine,
  listRecords,
  readWal,
  recordLines,
  run,
  type Wal,
  work,
} from './wal-workload.ts';

describe('the WAL of a server', () => {
  let server: PostgresServer;
  let wal: Wal;
  let lines: string[];

  beforeAll(async () => {
    server = await createServer(18);
    wal = readWal(server, await work(server));
    ({ lines } = await recordLines(wal));
  });
  afterAll(() => server.remove());

  it('gives the same records from any segment and any page on', async () => {
    const whole = Buffer.concat(wal.chunks);
    const end = Number(lsnOf(lines.at(-1)) - wal.startLsn);
    const segments = wal.chunks.map((_chunk, index) => index * wal.segmentSizeBytes).filter((offset) => offset <= end);
    const check = async (offset: number) => {
      const startLsn = wal.startLsn + BigInt(offset);
      const chunk = whole.subarray(offset, offset + 2 * wal.segmentSizeBytes);
      const { lines: some } = await recordLines({ ...wal, startLsn, chunks: [chunk] });
      // behind a switch there is nothing to begin with
      if (some.length === 0 && !segments.includes(offset)) return;
      const fromHere = lines.filter((line) => lsnOf(line) >= startLsn);
      const complete = fromHere.filter((line) => endOf(line) <= startLsn + BigInt(chunk.length));
      expect(some).toEqual(fromHere.slice(0, some.length));
      expect(some.length).toBeGreaterThanOrEqual(complete.length);
    };
    for (const offset of segments) await check(offset);
    const anyPage = fc.integer({ min: 0, max: Math.floor(end / 8192) }).map((page) => page * 8192);
    await fc.assert(fc.asyncProperty(anyPage, check), { numRuns: 10 });
  });

  it('gives the same records however the bytes are cut', async () => {
    const expected = await recordLines(overAnEdge(wal));
    expect(expected.lines.length).toBeGreaterThan(300);
    const aFew = fc.integer({ min: 1, max: 50 });
    const anySizes = fc.array(fc.oneof(aFew, fc.integer({ min: 1, max: 100_000 })), { minLength: 1, maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(anySizes, async (sizes) => {
        expect(await recordLines(cut(overAnEdge(wal), sizes))).toEqual(expected);
      }),
      { numRuns: 20, examples: [[[1]]] },
    );
  });

  it('gives what is whole of bytes that end anywhere, and where to go on', async () => {
    const [whole] = overAnEdge(wal).chunks as [Buffer];
    const { startLsn } = overAnEdge(wal);
    const all = (await recordLines(overAnEdge(wal))).lines;
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: whole.length }), async (length) => {
        const { lines: some, end } = await recordLines({ ...wal, startLsn, chunks: [whole.subarray(0, length)] });
        const complete = all.filter((line) => endOf(line) <= startLsn + BigInt(length));
        expect(some.slice(0, complete.length)).toEqual(complete);
        expect(some.length - complete.length).toBeLessThanOrEqual(1); // the last one's padding may be missing
        expect(end.reason).toBe('end of bytes');
        // at the edge of a page the next record begins behind the page's header, if that is there
        const next = all.at(some.length);
        if (some.length > 0) expect([endOf(some.at(-1)), next && lsnOf(next)]).toContain(end.endLsn);
      }),
      { numRuns: 40 },
    );
  });

  it('never takes a damaged record for a sound one, nor loses one before it', async () => {
    const [whole] = overAnEdge(wal).chunks as [Buffer];
    const { startLsn } = overAnEdge(wal);
    const all = (await recordLines(overAnEdge(wal))).lines;
    const anyFlip = fc.tuple(fc.integer({ min: 40, max: whole.length - 1 }), fc.integer({ min: 1, max: 255 }));
    await fc.assert(
      fc.asyncProperty(fc.array(anyFlip, { minLength: 1, maxLength: 3 }), async (flips) => {
        const damaged = Buffer.from(whole);
        for (const [at, bits] of flips) damaged.writeUInt8((damaged[at] ?? 0) ^ bits, at);
        const { lines: some } = await recordLines({ ...wal, startLsn, chunks: [damaged] });
        const first = startLsn + BigInt(Math.min(...flips.map(([at]) => at)));
        expect(some).toEqual(all.slice(0, some.length));
        expect(some.length).toBeGreaterThanOrEqual(all.filter((line) => endOf(line) <= first).length);
      }),
      { numRuns: 150 },
    );
  });

  it('takes no page of a later timeline, of another system or of another place', async () => {
    const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = wal.chunks;
    const ends = async (change: (page: Buffer) => unknown) => {
      const changed = Buffer.from(second);
      change(changed);
      const { end } = await recordLines({ ...wal, chunks: [first, changed] });
      return end.reason === 'no more records' && end.endLsn <= wal.startLsn + BigInt(first.length);
    };
    expect(await ends(() => undefined)).toBe(false);
    expect(await ends((page) => page.writeUInt32LE(2, 4))).toBe(true);
    expect(await ends((page) => page.writeUInt16LE(0xd110, 0))).toBe(true);
    expect(await ends((page) => page.writeBigUInt64LE(wal.startLsn, 8))).toBe(true);
    expect(await ends((page) => page.writeUInt8(page.readUInt8(24) ^ 1, 24))).toBe(true);
    expect(await ends((page) => page.writeUInt32LE(2 ** 24, 32))).toBe(true);
  });

  it('takes no record that names another one before it, though its CRC is right', async () => {
    const whole = Buffer.concat(wal.chunks.slice(0, 1));
    const at = Number(lsnOf(lines[2]) - wal.startLsn);
    const record = whole.subarray(at, at + whole.readUInt32LE(at));
    record.writeBigUInt64LE(wal.startLsn, 8);
    record.writeUInt32LE(crcOf(record, 0, 20, crcOf(record, 24, record.length)), 20);
    expect((await recordLines({ ...wal, chunks: [whole] })).lines).toEqual(lines.slice(0, 2));
  });

  it('asks for no more bytes than it needs', async () => {
    let asked = 0;
    async function* endless() {
      yield wal.chunks[0] ?? Buffer.alloc(0);
      for (; ; asked += 1) yield Buffer.alloc(8192);
    }
    const { end } = await gather(readWalRecords(endless(), wal));
    expect(end.reason).toBe('no more records');
    expect(asked).toBeLessThan(2);
  });
});

const lsnOf = (line = '') => parseLsn(line.split(' ')[0] ?? '') ?? 0n;
const endOf = (line = '') => parseLsn(line.split(' ')[1] ?? '') ?? 0n;

/** The last pages of one segment and the first ones of the next, in one chunk. */
function overAnEdge(wal: Wal): Wal {
  const sizeBytes = 15 * 8192;
  const edge = wal.segmentSizeBytes;
  const whole = Buffer.concat(wal.chunks.slice(0, 2)).subarray(edge - sizeBytes, edge + sizeBytes);
  return { ...wal, startLsn: wal.startLsn + BigInt(edge - sizeBytes), chunks: [whole] };
}

/** Pieces of these sizes, over and over. */
function cut(wal: Wal, sizes: readonly number[]): Wal {
  const whole = Buffer.concat(wal.chunks);
  const chunks: Buffer[] = [];
  for (let at = 0, turn = 0; at < whole.length; turn += 1) {
    const size = sizes[turn % sizes.length] ?? 1;
    chunks.push(whole.subarray(at, at + size));
    at += size;
  }
  return { ...wal, chunks };
}

/** Every version has its row; one of each kind is enough where time is short. */
const majors = process.env.TORTURE === '1' ? [15, 17, 18] : [17];
const crashes = majors.flatMap((major) => [[major, 1_500_000] as const, [major, 1024 * 1024] as const]);

it.each(crashes)(
  'PostgreSQL %i: goes on where a record was overwritten that was lost after %i bytes',
  async (major, lost) => {
    const server = await createServer(major);
    onTestFinished(() => server.remove());
    await server.switchWal();
    const from = await server.value('select pg_walfile_name(pg_current_wal_lsn() + 1)'); // at an edge old versions name the one before
    await server.query("select pg_create_restore_point('before')");
    await server.query("select pg_logical_emit_message(false, 'big', repeat('y', 3000000))");
    await server.query('select pg_switch_wal()');
    await server.stop('SIGKILL');
    losePages(server, from, lost);
    await server.open();
    await server.query("select pg_create_restore_point('after')");
    await server.switchWal();
    const wal = readWal(server, from);
    const listed = await listRecords(server, wal.startLsn);
    expect(listed.map(({ type }) => type)).toContain('OVERWRITE_CONTRECORD');
    const expected = listed.map(listedEvent).filter((line) => line !== undefined);
    expect(expected.join('\n')).toMatch(/restore point before\n(.*\n)*.* restore point after/);
    expect((await events(wal)).found.map(eventLine).slice(0, expected.length)).toEqual(expected);
    const { lines } = await recordLines(wal);
    expect(lines.slice(0, listed.length)).toEqual(listed.map(listedLine));
    await expectEndAtTheGap(wal, lost);
  },
);

/** What had not reached the disk when the machine stopped: all pages from `lost` bytes behind the beginning of the segment `from` on. */
function losePages(server: PostgresServer, from: string, lost: number): void {
  const folder = join(server.dataDirectory, 'pg_wal');
  const names = readdirSync(folder).filter((name) => /^[0-9A-F]{24}$/.test(name) && name >= from);
  for (const [index, name] of names.sort().entries()) {
    const kept = Math.ceil((lost - index * 2 ** 20) / 8192) * 8192;
    if (kept <= 0) rmSync(join(folder, name));
    else writeFileSync(join(folder, name), readFileSync(join(folder, name)).fill(0, Math.min(kept, 2 ** 20)));
  }
}

/** A record that stands where a continuation should is only believed when it says which record it replaces. */
async function expectEndAtTheGap(wal: Wal, lost: number): Promise<void> {
  const whole = Buffer.concat(wal.chunks);
  const { lines, end } = await recordLines({ ...wal, chunks: [whole.subarray(0, Math.ceil(lost / 8192) * 8192)] });
  expect(end).toEqual({ endLsn: endOf(lines.at(-1)), reason: 'end of bytes' });
  const foreign = Buffer.from(whole);
  const record = foreign.subarray(whole.indexOf(lsnBytes(end.endLsn), Math.ceil(lost / 8192) * 8192) - 26);
  record.writeUInt8(record.readUInt8(26) ^ 8, 26);
  record.writeUInt32LE(crcOf(record, 0, 20, crcOf(record, 24, record.readUInt32LE(0))), 20);
  expect((await recordLines({ ...wal, chunks: [foreign] })).end).toEqual({ ...end, reason: 'no more records' });
}

function lsnBytes(lsn: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(lsn);
  return bytes;
}

it.each(majors)('PostgreSQL %i: reads the first segment of a new timeline through its switch point', async (major) => {
  const old = await createServer(major);
  onTestFinished(() => old.remove());
  await old.switchWal();
  await old.query("select pg_create_restore_point('old')");
  await run(old, "insert into pg_description values (1, 1, 1, 'x')");
  await old.stop('SIGKILL');
  const server = old.copy();
  onTestFinished(() => server.remove());
  server.configure({ restore_command: 'false' });
  server.signal('recovery.signal');
  await server.open();
  await server.query("select pg_logical_emit_message(false, 'big', repeat('y', 20000))");
  await server.query("select pg_create_restore_point('new')");
  const wal = readWal(server, await server.switchWal());
  const listed = (await listRecords(server, wal.startLsn)).map(listedEvent).filter((line) => line !== undefined);
  const lines = (await events(wal)).found.map(eventLine);
  expect(lines.slice(0, listed.length)).toEqual(listed);
  expect(lines.join('\n')).toMatch(/ restore point old\n(.*\n)*.* 2(?: 1)?\n(.*\n)*.* restore point new/);
  expect(wal.timeline).toBe(2);
  expect(wal.chunks[0]?.readUInt32LE(4)).toBe(1); // its first pages are the old timeline's
  expect((await events({ ...wal, timeline: 1 })).found.map(eventLine).join('\n')).not.toContain('restore point new');
});
