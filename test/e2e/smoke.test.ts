import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { temporaryFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { launcher, walT } from '../support/run.ts';

it.each([15, 17, 18])('archives and recovers on %s', async (major) => {
  const folder = temporaryFolder();
  const config = join(folder, 'env');
  writeFileSync(config, `WALT_REPO=file://${folder}/repo\n`);
  const r = await walT('wal-t', ['init'], { env: { WALT_CONFIG: config } });
  console.log(r.stdout, r.stderr);
  expect(r.code).toBe(0);
  const server = PostgresServer.create({
    major,
    settings: {
      archive_mode: 'on',
      archive_command: `WALT_CONFIG=${config} ${launcher('wal-push')} %p %f`,
      restore_command: `WALT_CONFIG=${config} ${launcher('wal-fetch')} %f %p`,
    },
  });
  await server.start();
  await server.query('create table t (n int)');
  const backup = await server.backup();
  await server.query('insert into t select generate_series(1,20000)');
  const seg = await server.switchWal();
  await server.waitUntilArchived(seg);
  await server.stop();
  backup.signal('recovery.signal');
  await backup.open();
  expect(await backup.value('select count(*) from t')).toBe('20000');
  console.log(
    backup.log
      .split('\n')
      .filter((l) => /restored|wal-|recovery/.test(l))
      .join('\n'),
  );
  await server.remove();
  await backup.remove();
});
