/** The records and events in real WAL are those that PostgreSQL's own readers tell of. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatLsn, parseLsn } from '../../src/postgres/lsn.ts';
import { dateToWalTime, walTimeToDate } from '../../src/postgres/wal-events.ts';
import type { PostgresServer } from '../support/postgres.ts';
import { hasTool } from '../support/tools.ts';
import {
  createServer,
  eventLine,
  events,
  type ListedRecord,
  linesBefore,
  listedEvent,
  listedLine,
  listRecords,
  readWal,
  recordLines,
  type Wal,
  work,
} from './wal-workload.ts';

const waldump = '/usr/lib/postgresql/15/bin/pg_waldump';
/** Major version and segment size in MB. */
const everyServer = [15, 17, 18].flatMap((major) => [1, 64].map((sizeMb) => [major, sizeMb] as const));
const someServers = everyServer.filter(([major, sizeMb]) => (major === 17) === (sizeMb === 64));
const servers = process.env.TORTURE === '1' ? everyServer : someServers;

describe.each(servers)('the WAL of PostgreSQL %i in segments of %i MB', (major, walSegmentSize) => {
  let server: PostgresServer;
  let wal: Wal;
  let listed: ListedRecord[];

  beforeAll(async () => {
    server = await createServer(major, walSegmentSize);
    const from = await work(server);
    wal = readWal(server, from, walSegmentSize);
    listed = await listRecords(server, wal.startLsn);
  });
  afterAll(() => server.remove());

  it('is the list of records that pg_walinspect gives', async () => {
    const { lines } = await recordLines(wal);
    expect(listed.length).toBeGreaterThan(5000);
    expect(linesBefore(lines, listed.at(-1)?.endLsn ?? '')).toEqual(listed.map(listedLine));
  });

  it.skipIf(major !== 15 || !hasTool(waldump))('is the list of records that pg_waldump gives', async () => {
    const { lines } = await recordLines(wal);
    const dumped = dump(server, wal);
    expect(lines.length).toBeGreaterThan(5000);
    expect(lines.map((line) => line.split(' ')[0])).toEqual(dumped.slice(0, lines.length));
  });

  it('has the events that pg_walinspect describes, with their times and transactions', async () => {
    const expected = listed.map(listedEvent).filter((line) => line !== undefined);
    const { found } = await events(wal);
    expect(linesBefore(found.map(eventLine), listed.at(-1)?.endLsn ?? '')).toEqual(expected);
    for (const kind of kinds) expect(expected.join('\n')).toContain(kind);
  });
});

/** That the workload has all that is looked for. */
const kinds = [
  ...[' commit 2', ' abort 2', ' prepared commit 2', ' prepared abort 2', ' restore point before the big ones'],
  ...[' checkpoint true ', ' backup end ', ' switch', ' tablespace create ', ' database create copy dir '],
];

/** Where the records begin. */
function dump(server: PostgresServer, { startLsn }: Wal): string[] {
  const folder = join(server.dataDirectory, 'pg_wal');
  const words = ['-p', folder, '-s', formatLsn(startLsn)];
  const { stdout } = spawnSync(waldump, words, { encoding: 'utf8', maxBuffer: 2 ** 28 });
  return [...stdout.matchAll(/, lsn: (\S+),/g)].map(([, lsn]) => formatLsn(parseLsn(lsn ?? '') ?? 0n));
}

describe('times', () => {
  it('are those of the calendar, to the millisecond', () => {
    expect(walTimeToDate(0n).toISOString()).toBe('2000-01-01T00:00:00.000Z');
    expect(walTimeToDate(-1n).toISOString()).toBe('1999-12-31T23:59:59.999Z');
    fc.assert(
      fc.property(fc.date({ noInvalidDate: true }), (date) => {
        expect(walTimeToDate(dateToWalTime(date))).toEqual(date);
      }),
    );
  });
});
