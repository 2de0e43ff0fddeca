/** wal-push --missing never takes a segment for whole in which a timeline was left. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { init } from '../../src/commands/init.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { walPushMissing } from '../../src/commands/wal-push-missing.ts';
import { makeContext } from '../support/context.ts';
import { temporaryFolder } from '../support/folders.ts';
import { makeDataDirectory, makeSegment } from '../support/segment.ts';

it('H2: does not push the end of an old timeline as a whole segment, while the history that tells of it waits to be archived', async () => {
  const folder = temporaryFolder();
  const [data, repo] = [join(folder, 'data'), join(folder, 'repo')];
  mkdirSync(data);
  const put = makeDataDirectory(data);
  const context = makeContext({ WALT_REPO: `file://${repo}` }, { workingDirectory: data });
  await init(context, { adopt: false });
  const [first, parted, own] = ['000000010000000000000001', '000000010000000000000002', '000000020000000000000002'];
  for (const name of [first, parted, own]) put(name, makeSegment(name));
  put('00000002.history', Buffer.from('1\t0/280000\tno recovery target specified\n'));
  const mark = (name: string) => writeFileSync(join(data, 'pg_wal/archive_status', name), '');
  for (const name of [first, parted, own]) mark(`${name}.done`);
  mark('00000002.history.ready'); // the archiver has not come to it
  await walPush(context, { path: `pg_wal/${first}` });
  const { pushed, failed } = await walPushMissing(context, { pgdata: data });
  expect(failed).toEqual([]);
  expect(pushed).toEqual([own]);
});
