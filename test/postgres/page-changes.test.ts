/** Changed pages by their headers: pure, and of real servers, where a rule that is left out misses a page. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it, onTestFinished } from 'vitest';
import { formatLsn, type Lsn, parseLsn } from '../../src/postgres/lsn.ts';
import { changedPages, type PageComparison, visibleBits } from '../../src/postgres/page-changes.ts';
import { PostgresServer } from '../support/postgres.ts';
import { seededRandom } from '../support/random.ts';

const pageBytes = 8192;
const sinceLsn = 0x1_8000_0001n;
const comparison: PageComparison = { pageBytes, firstBlock: 0, sinceLsn, checksums: false };

interface Header {
  readonly lsn?: Lsn;
  readonly flags?: number;
  readonly lower?: number;
  readonly upper?: number;
  readonly special?: number;
  readonly version?: number;
}

/** A sane page that is older than the parent, unless told. */
function makePage({
  lsn = sinceLsn - 1n,
  flags = 0,
  lower = 24,
  upper = 8000,
  special = 8192,
  version = 4,
}: Header = {}) {
  const page = Buffer.alloc(pageBytes, 0xa5);
  page.writeUInt32LE(Number(lsn >> 32n), 0);
  page.writeUInt32LE(Number(lsn & 0xffff_ffffn), 4);
  for (const [index, value] of [flags, lower, upper, special, pageBytes + version].entries()) {
    page.writeUInt16LE(value, 10 + 2 * index);
  }
  return page;
}

const isChanged = (page: Buffer, other: Partial<PageComparison> = {}): boolean =>
  changedPages(page, { ...comparison, ...other }).length > 0;

it.each([
  ['0/0', 0n, false],
  ['just before', sinceLsn - 1n, false],
  ['at', sinceLsn, true],
  ['after', sinceLsn + 1n, true],
  ['after, with a smaller low half', 0x2_0000_0000n, true],
  ['before, with a greater low half', 0x0_ffff_ffffn, false],
  ['far in the future', 2n ** 64n - 1n, true],
])('a page whose LSN is %s', (_what, lsn, changed) => expect(isChanged(makePage({ lsn }))).toBe(changed));

it('H42: new pages and zeros, which have no LSN, are changed', () => {
  expect(isChanged(makePage({ upper: 0, lower: 0 }))).toBe(true);
  expect(isChanged(makePage({ lsn: 0n, upper: 0, lower: 0, special: 0 }))).toBe(true);
  expect(isChanged(Buffer.alloc(pageBytes))).toBe(true);
});

it.each<[string, Header]>([
  ['flags that nobody knows', { flags: 8 }],
  ['lower above upper', { lower: 8001 }],
  ['upper above special', { upper: 8193 }],
  ['special beyond the page', { special: 8200 }],
  ['special that is not aligned', { special: 8188 }],
  ["a size that is not the page's", { version: 4 + 0x100 }],
])('H23: a page with %s may be torn, and is changed', (_what, header) => {
  expect(isChanged(makePage())).toBe(false);
  expect(isChanged(makePage(header))).toBe(true);
});

it('H36: a page whose PD_ALL_VISIBLE is not as the parent had it, or not known, is changed', () => {
  const [plain, visible] = [makePage(), makePage({ flags: 4 })];
  for (const known of [true, false, undefined]) {
    expect(isChanged(visible, { isKnownVisible: () => known })).toBe(known !== true);
    expect(isChanged(plain, { isKnownVisible: () => known })).toBe(known !== false);
  }
  const chunk = Buffer.concat([plain, visible, plain, visible, visible]);
  expect(changedPages(chunk, { ...comparison, firstBlock: 100, isKnownVisible: (block) => block < 102 })).toEqual([
    0, 3, 4,
  ]);
  expect([...visibleBits(chunk, pageBytes)]).toEqual([0b11010]);
});

it('a piece of a page is changed, and nothing is said of no page', () => {
  expect(changedPages(Buffer.concat([makePage(), makePage().subarray(0, 5000)]), comparison)).toEqual([1]);
  expect(changedPages(Buffer.alloc(3), { ...comparison, checksums: true })).toEqual([0]);
  expect(changedPages(Buffer.alloc(0), comparison)).toEqual([]);
  expect([...visibleBits(Buffer.alloc(pageBytes + 5), pageBytes)]).toEqual([0]);
});

it('is right about any chunk, wherever it begins in memory', () => {
  const word = fc.oneof(fc.constantFrom(0, 4, 24, 8192, 8196), fc.nat(0xffff));
  const lsn = fc.oneof(
    fc.bigInt({ min: sinceLsn - 2n, max: sinceLsn + 2n }),
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  );
  const odd = fc.record({ lsn, flags: word, lower: word, upper: word, special: word });
  const sane = fc.record({ lsn, flags: fc.constantFrom(0, 4) });
  const known = fc.constantFrom(true, false, undefined);
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.oneof(sane, odd), known), { maxLength: 20 }),
      fc.nat(7),
      fc.boolean(),
      (pages, shift, keepsBits) => {
        const memory = Buffer.alloc(shift + pages.length * pageBytes);
        for (const [index, [header]] of pages.entries()) makePage(header).copy(memory, shift + index * pageBytes);
        const chunk = memory.subarray(shift);
        const isVisible = ({ flags = 0 }: Header): boolean => (flags & 4) !== 0;
        const expected = pages.flatMap(([header, visible], index) => {
          const { lsn: at = 0n, flags = 0, lower = 24, upper = 8000, special = 8192 }: Header = header;
          const isSane =
            upper > 0 && flags < 8 && lower <= upper && upper <= special && special <= 8192 && special % 8 === 0;
          const isSame = !keepsBits || visible === isVisible(header);
          return isSane && at < sinceLsn && isSame ? [] : [index];
        });
        const isKnownVisible = (block: number): boolean | undefined => pages[block - 50]?.[1];
        const asked = { ...comparison, firstBlock: 50, ...(keepsBits ? { isKnownVisible } : {}) };
        expect(changedPages(chunk, asked)).toEqual(expected);
        const bits = visibleBits(chunk, pageBytes);
        expect(bits).toHaveLength(Math.ceil(pages.length / 8));
        const visibles = pages.map((_, index) => ((bits[index >> 3] ?? 0) & (1 << (index & 7))) !== 0);
        expect(visibles).toEqual(pages.map(([header]) => isVisible(header)));
      },
    ),
  );
});

/** A table of that many pages, all visible or none, and where the next backup would start. */
async function start(major: number, checksums: boolean) {
  const server = PostgresServer.create({ major, checksums });
  onTestFinished(() => server.remove());
  await server.start();
  await server.query(`create table filled as select i, repeat('x', 1000) as t from generate_series(1, 2000) i`);
  const path = await server.value(`select pg_relation_filepath('filled')`);
  const read = async (): Promise<Buffer> => {
    await server.query('checkpoint');
    return readFileSync(join(server.dataDirectory, path));
  };
  const redo = async (): Promise<Lsn> => {
    await server.query('checkpoint');
    return parseLsn(await server.value('select redo_lsn from pg_control_checkpoint()')) ?? 0n;
  };
  return { server, read, redo };
}

it.each([15, 17, 18])(
  'H36: what VACUUM of PostgreSQL %i without checksums makes visible has no new LSN, and is found',
  async (major) => {
    const { server, read, redo } = await start(major, false);
    await server.query('select count(*) from filled'); // sets hint bits
    const since = await redo();
    const before = await read();
    const bits = visibleBits(before, pageBytes);
    await server.query('vacuum filled');
    const now = await read();
    const asked = { ...comparison, sinceLsn: since };
    const isKnownVisible = (block: number): boolean => ((bits[block >> 3] ?? 0) & (1 << (block & 7))) !== 0;
    const byLsn = changedPages(now, asked);
    const all = changedPages(now, { ...asked, isKnownVisible });
    expect(all).toHaveLength(now.length / pageBytes);
    expect(byLsn.length, `LSNs of ${formatLsn(since)}`).toBeLessThan(all.length / 10); // this is the hazard
  },
);

it.each([15, 17, 18])('finds what an UPDATE of PostgreSQL %i changed, and no other page', async (major) => {
  for (const checksums of [false, true]) {
    const { server, read, redo } = await start(major, checksums);
    await server.query('vacuum filled');
    const since = await redo();
    const before = await read();
    const bits = visibleBits(before, pageBytes);
    const random = seededRandom(major);
    const some = Array.from({ length: 20 }, () => 1 + random(2000));
    await server.query(`update filled set t = 'y' where i in (${some.join()})`);
    const now = await read();
    const isKnownVisible = (block: number): boolean | undefined =>
      block < before.length / pageBytes ? ((bits[block >> 3] ?? 0) & (1 << (block & 7))) !== 0 : undefined;
    const found = changedPages(now, { ...comparison, sinceLsn: since, checksums, isKnownVisible });
    const pageOf = (file: Buffer, index: number): Buffer => file.subarray(index * pageBytes, (index + 1) * pageBytes);
    const differing = Array.from({ length: now.length / pageBytes }, (_, index) => index).filter(
      // where the table grew by several pages at once, some are still new
      (index) => !pageOf(before, index).equals(pageOf(now, index)) || pageOf(now, index).readUInt16LE(14) === 0,
    );
    expect(found).toEqual(differing);
    expect(found.length).toBeGreaterThan(5);
  }
});

it.each([15, 18])(
  'H23: with checksums of PostgreSQL %i a page that is torn below its header is found',
  async (major) => {
    const { read, redo } = await start(major, true);
    const since = await redo();
    const pages = await read();
    const asked = { ...comparison, sinceLsn: since + 1n, checksums: true };
    expect(changedPages(pages, asked)).toEqual([]);
    pages.fill(0, 3 * pageBytes + 4096, 4 * pageBytes);
    pages.fill(0, 7 * pageBytes + 512, 7 * pageBytes + 1024);
    expect(changedPages(pages, asked)).toEqual([3, 7]);
    expect(changedPages(pages.subarray(pageBytes), asked)).toHaveLength(pages.length / pageBytes - 1); // in another's place
    expect(changedPages(pages.subarray(pageBytes), { ...asked, firstBlock: 1 })).toEqual([2, 6]);
  },
);
