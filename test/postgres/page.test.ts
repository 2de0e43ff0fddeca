/** Page checksums: what PostgreSQL wrote is sound, what was flipped is found, and what is not to be judged is not. */
import { closeSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { findBadPages } from '../../src/postgres/page.ts';
import { parseRelationFile } from '../../src/postgres/relation-file.ts';
import { PostgresServer } from '../support/postgres.ts';
import { seededRandom } from '../support/random.ts';
import { run } from '../support/run.ts';
import { hasTool } from '../support/tools.ts';

const pageSizeBytes = 8192;
const startLsn = 2n ** 63n;
const options = { firstBlock: 0, startLsn, pageSizeBytes };

/** A page of a pattern, with the checksum given. */
function makePage(seed: number, checksum: number): Buffer {
  const page = Buffer.alloc(pageSizeBytes);
  for (let at = 0; at < page.length; at += 1) page[at] = at * 7 + (at >> 8) * 13 + seed;
  page.writeUInt32LE(0x7fff_ffff, 0);
  page.writeUInt32LE(0xffff_ffff, 4);
  page.writeUInt16LE(checksum, 8);
  return page;
}

/** Seed, block, and what `page_checksum` of PostgreSQL's pageinspect says. */
const vectors = [
  [0, 0, 5496],
  [1, 1, 54474],
  [17, 131072, 2529],
  [99, 2147483647, 44777],
  [200, 4294967294, 36180],
] as const;

it.each(vectors)('knows the checksum of pattern %i as block %i', (seed, firstBlock, checksum) => {
  const verdict = (page: Buffer, block: number = firstBlock) => findBadPages(page, { ...options, firstBlock: block });
  expect(verdict(makePage(seed, checksum))).toEqual([]);
  expect(verdict(makePage(seed, checksum ^ 1))).toEqual([0]);
  expect(verdict(makePage(seed, 0))).toEqual([0]);
  expect(verdict(makePage(seed, checksum), firstBlock === 0 ? 1 : firstBlock - 1)).toEqual([0]);
});

/** Four bad pages. */
const bad = () => Buffer.concat([1, 2, 3, 4].map((seed) => makePage(seed, 0)));

it('counts blocks on from the first, in the buffer alone', () => {
  const [seed, block, checksum] = vectors[1];
  const pages = Buffer.concat([makePage(1, 0), makePage(seed, checksum), makePage(2, 0)]);
  expect(findBadPages(pages, { ...options, firstBlock: block - 1 })).toEqual([0, 2]);
  expect(findBadPages(pages, { ...options, firstBlock: block })).toEqual([0, 1, 2]);
});

it.each([0, 1, 2, 3, 4, 6])(
  'takes a buffer that begins %i bytes after a multiple of eight, and leaves it as it is',
  (shift) => {
    const memory = Buffer.from(new ArrayBuffer(5 * pageSizeBytes));
    const pages = memory.subarray(shift, shift + 4 * pageSizeBytes);
    bad().copy(pages);
    makePage(vectors[0][0], vectors[0][2]).copy(pages);
    const before = Buffer.from(memory);
    expect(findBadPages(pages, options)).toEqual([1, 2, 3]);
    expect(memory.equals(before)).toBe(true);
  },
);

it('does not judge a piece of a page', () => {
  expect(findBadPages(bad().subarray(0, 2 * pageSizeBytes + 5000), options)).toEqual([0, 1]);
  expect(findBadPages(bad().subarray(0, 5000), options)).toEqual([]);
  expect(findBadPages(Buffer.alloc(0), options)).toEqual([]);
});

it('H23: does not judge new pages', () => {
  const pages = bad();
  pages.writeUInt16LE(0, pageSizeBytes + 14);
  pages.fill(0, 2 * pageSizeBytes, 3 * pageSizeBytes);
  pages.writeUInt16LE(0, 3 * pageSizeBytes + 12); // lower, which does not count
  expect(findBadPages(pages, options)).toEqual([0, 3]);
});

it.each([
  ['0/0', 0, 0, 0x1_0000_0000n, true],
  ['just before', 1, 0x8000_0000, 0x1_8000_0001n, true],
  ['at', 1, 0x8000_0001, 0x1_8000_0001n, false],
  ['after', 1, 0xffff_ffff, 0x1_8000_0001n, false],
  ['after, with a smaller low half', 2, 0, 0x1_8000_0001n, false],
  ['after, in the upper half of all LSNs', 0x8000_0001, 0, 0x8000_0000_0000_0000n, false],
  ['before, with a greater low half', 0x8000_0000, 0xffff_ffff, 0x8000_0001_0000_0000n, true],
] as const)('H23: judges only pages changed before the start of the backup: %s', (_what, high, low, start, judged) => {
  const page = makePage(1, 0);
  page.writeUInt32LE(high, 0);
  page.writeUInt32LE(low, 4);
  expect(findBadPages(page, { ...options, startLsn: start })).toEqual(judged ? [0] : []);
});

it.each([15, 17, 18])("agrees with PostgreSQL %i's own page_checksum about any page", async (major) => {
  const server = create(major);
  await server.start();
  await server.query('create extension pageinspect');
  const random = seededRandom(major);
  const cases = Array.from({ length: 40 }, () => [random(256), random(2 ** 32 - 1)] as const);
  const client = await server.connect();
  for (const [seed, firstBlock] of [...vectors, ...cases]) {
    const page = makePage(seed, random(65536));
    const { rows } = await client.query('select page_checksum($1, $2) & 65535 as checksum', [page, firstBlock]);
    page.writeUInt16LE(Number(rows[0].checksum) & 0xffff, 8);
    expect(findBadPages(page, { ...options, firstBlock })).toEqual([]);
  }
  await client.end();
});

it.each([15, 17, 18])('finds every flip, and nothing else, in the relations of PostgreSQL %i', async (major) => {
  const server = await createFilled(major);
  const files = relationFiles(server);
  const random = seededRandom(major);
  let [pages, flips, missed] = [0, 0, 0];
  for (const path of files) {
    const content = readFileSync(join(server.dataDirectory, path));
    pages += content.length / pageSizeBytes;
    expect(findBadPages(content, options)).toEqual([]);
    for (let at = 0; at < content.length; at += pageSizeBytes * (1 + random(8))) {
      if (content.readUInt16LE(at + 14) === 0) continue;
      // neither the LSN nor `upper`: flips there may say that the page is not to be judged
      const byte = at + 16 + random(pageSizeBytes - 16);
      const value = content[byte] ?? 0;
      content[byte] = value ^ (1 << random(8));
      if (findBadPages(content, options).join() !== `${at / pageSizeBytes}`) missed += 1;
      content[byte] = value;
      flips += 1;
    }
  }
  expect(missed).toBeLessThanOrEqual(1); // of 16 bits of checksum, one in 65,535 flips stays unseen by right
  expect(files.some((path) => path.endsWith('_vm')) && files.some((path) => path.endsWith('_fsm'))).toBe(true);
  expect(files.some((path) => path.endsWith('_init'))).toBe(true);
  expect(pages).toBeGreaterThan(1000);
  expect(flips).toBeGreaterThan(200);
});

const pgChecksums = '/usr/lib/postgresql/15/bin/pg_checksums';
it.skipIf(!hasTool(pgChecksums))("gives the verdicts of Debian's pg_checksums", async () => {
  const server = await createFilled(15);
  const random = seededRandom(1);
  const files = relationFiles(server);
  for (let flip = 0; flip < 200; flip += 1) {
    const path = join(server.dataDirectory, files[random(files.length)] ?? '');
    const content = readFileSync(path);
    if (content.length === 0) continue;
    const byte = flip % 4 === 0 ? random(24) : random(content.length); // headers, often: LSN, checksum, upper
    const file = openSync(path, 'r+');
    writeSync(file, Buffer.of((content[byte] ?? 0) ^ (1 << random(8))), 0, 1, byte);
    closeSync(file);
  }
  const { stderr } = await run(pgChecksums, ['--check', '-D', server.dataDirectory]);
  const pattern = /checksum verification failed in file "(.*)", block (\d+):/g;
  const theirs = [...stderr.matchAll(pattern)].map(
    ([, path = '', block]) => `${path.slice(server.dataDirectory.length + 1)} ${block}`,
  );
  const never = { ...options, startLsn: 2n ** 64n - 1n }; // pg_checksums judges every LSN
  const ours = files.flatMap((path) =>
    findBadPages(readFileSync(join(server.dataDirectory, path)), never).map((block) => `${path} ${block}`),
  );
  expect(theirs.length).toBeGreaterThan(100);
  expect(ours.sort()).toEqual(theirs.sort());
});

function create(major: number): PostgresServer {
  const server = PostgresServer.create({ major, checksums: true });
  onTestFinished(() => server.remove());
  return server;
}

/** A stopped cluster with forks of every kind. */
async function createFilled(major: number): Promise<PostgresServer> {
  const server = create(major);
  await server.start();
  await server.query(`create table filled as select i, repeat('x', 100) from generate_series(1, 20000) i`);
  await server.query('create index on filled (i)');
  await server.query('create unlogged table unlogged (i int primary key)');
  await server.query('vacuum filled');
  await server.stop();
  return server;
}

function relationFiles(server: PostgresServer): readonly string[] {
  const names = readdirSync(server.dataDirectory, { recursive: true, encoding: 'utf8' });
  return names.filter((name) => parseRelationFile(name) !== undefined).sort();
}
