/** What PostgreSQL itself wrote is read right: control files, first pages, timeline history and backup history files. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { checkBackupHistory } from '../../src/postgres/backup-history.ts';
import { parseControlFile } from '../../src/postgres/control-file.ts';
import { parseLsn } from '../../src/postgres/lsn.ts';
import { parseTimelineHistory } from '../../src/postgres/timeline-history.ts';
import { parseWalFileName, segmentNameAt } from '../../src/postgres/wal-file-name.ts';
import { longPageHeaderBytes, parseLongPageHeader } from '../../src/postgres/wal-page.ts';
import { PostgresServer, type ServerOptions } from '../support/postgres.ts';

const majors = [15, 17, 18];
const sizes = [1, 16, 64];
const isTorture = process.env.TORTURE === '1';
/** Each version, and each size, once. */
const clusters = majors.flatMap((major, index) =>
  (isTorture ? sizes : sizes.slice(index, index + 1)).map((walSegmentSize) => ({ major, walSegmentSize })),
);

function create(options: ServerOptions): PostgresServer {
  const server = PostgresServer.create(options);
  onTestFinished(() => server.remove());
  return server;
}

function firstPage(server: PostgresServer, name: string) {
  const content = readFileSync(join(server.dataDirectory, 'pg_wal', name));
  return parseLongPageHeader(content.subarray(0, longPageHeaderBytes));
}

function namesInWal(server: PostgresServer, kind: string) {
  const names = readdirSync(join(server.dataDirectory, 'pg_wal')).sort();
  return names.map(parseWalFileName).filter((file) => file?.kind === kind);
}

it.each(clusters)('of PostgreSQL $major with segments of $walSegmentSize MiB', async ({ major, walSegmentSize }) => {
  const server = create({ major, walSegmentSize, settings: { max_wal_size: '256MB' } });
  await server.start();
  const [row = []] = await server.query(
    `select system_identifier, pg_control_version, (select setting from pg_settings where name = 'wal_segment_size'),
            pg_current_wal_lsn(), pg_walfile_name(pg_current_wal_lsn()) from pg_control_system()`,
  );
  const [systemIdentifier = '', version, sizeBytes, lsn = '', current = ''] = row;
  const segmentSizeBytes = walSegmentSize * 1024 * 1024;
  expect(Number(sizeBytes)).toBe(segmentSizeBytes);
  expect(BigInt(systemIdentifier)).toBeGreaterThan(2n ** 53n);

  const control = parseControlFile(readFileSync(join(server.dataDirectory, 'global/pg_control')));
  const expected = { systemIdentifier, controlVersion: Number(version), timeline: 1, segmentSizeBytes };
  expect(control).toMatchObject(expected);
  const position = parseLsn(lsn) ?? 0n;
  expect(segmentNameAt(1, position, segmentSizeBytes)).toBe(current);
  expect(firstPage(server, current)).toMatchObject({
    timeline: 1,
    systemIdentifier,
    segmentSizeBytes,
    pageAddress: position - (position % BigInt(segmentSizeBytes)),
  });
});

it.each(majors)('H11: of PostgreSQL %i, whose new timeline begins with a header of the old one', async (major) => {
  const settings = { archive_mode: 'on', archive_command: 'false', restore_command: 'false' };
  const server = create({ major, settings });
  await server.start();
  const copy = await server.backup();
  onTestFinished(() => copy.remove());
  const backups = namesInWal(server, 'backup');
  expect(backups).toHaveLength(1);
  for (const name of backups) {
    if (name?.kind !== 'backup') continue;
    const text = readFileSync(join(server.dataDirectory, 'pg_wal', name.name), 'utf8');
    expect(checkBackupHistory(name, text)).toBeUndefined();
  }

  await server.query('create table t ()'); // so that the old timeline ends inside a segment
  await server.stop('SIGQUIT'); // a fast one would wait for its archive_command
  server.signal('recovery.signal');
  await server.open();
  const { ancestors } = parseTimelineHistory(
    2,
    readFileSync(join(server.dataDirectory, 'pg_wal/00000002.history'), 'utf8'),
  );
  expect(ancestors).toHaveLength(1);
  const end = ancestors[0]?.end ?? 0n;
  expect(ancestors[0]?.timeline).toBe(1);
  expect(firstPage(server, segmentNameAt(2, end, 2 ** 20))?.timeline).toBe(1);
});
