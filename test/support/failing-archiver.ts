/** What a server's archiver does while its command fails, and when it does not any more. */
import { expect } from 'vitest';
import type { PostgresServer } from './postgres.ts';
import { insertRow } from './recovery.ts';
import { waitFor } from './wait.ts';

const archiver = `select pid from pg_stat_activity where backend_type = 'archiver'`;
/** How often archiving failed, if this segment was the last that it failed for. */
const failures = (segment: string) => `select failed_count from pg_stat_archiver where last_failed_wal = '${segment}'`;

export interface Failing {
  /** In the server's log. */
  readonly reason: RegExp;
  readonly row: number;
  readonly begin: () => unknown;
  readonly mend: () => unknown;
}

/** The failure is counted and told, the archiver lives on, and archives once it is mended. @returns the segment. */
export async function expectCounted(server: PostgresServer, { reason, row, begin, mend }: Failing): Promise<string> {
  await server.waitUntilAllArchived();
  await waitFor('the archiver to be there', async () => (await server.value(archiver)) !== '');
  const [pid, logged] = [await server.value(archiver), server.log.length];
  await begin();
  await insertRow(server, row);
  const segment = await server.switchWal();
  try {
    await waitFor('the failure to be counted', async () => Number(await server.value(failures(segment))) > 0);
    expect(server.log.slice(logged)).toMatch(reason);
  } finally {
    await mend();
  }
  await server.query('select pg_switch_wal()'); // wakes the archiver, should it have given up for a minute
  await server.waitUntilArchived(segment);
  expect(await server.value(archiver)).toBe(pid);
  return segment;
}
