/** Histories that contradict each other leave it open which WAL belongs to which backup: nothing goes. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { deleteBackups } from '../../src/commands/delete.ts';
import { init } from '../../src/commands/init.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { makeContext } from '../support/context.ts';
import { temporaryFolder } from '../support/folders.ts';
import { makeDataDirectory, makeSegment } from '../support/segment.ts';

const second = '1\t0/280000\tno recovery target specified\n';

it.each([
  { third: `1\t0/280000\tx\n2\t0/380000\tx\n`, refusal: undefined },
  { third: `1\t0/270000\tx\n2\t0/380000\tx\n`, refusal: expect.stringContaining('contradict each other') },
])('H14: deletes nothing where a descendant tells another origin: $third', async ({ third, refusal }) => {
  const folder = temporaryFolder();
  const data = join(folder, 'data');
  mkdirSync(data);
  const put = makeDataDirectory(data);
  const context = makeContext({ WALT_REPO: `file://${join(folder, 'repo')}` }, { workingDirectory: data });
  await init(context, { adopt: false });
  put('00000002.history', Buffer.from(second));
  put('00000003.history', Buffer.from(third));
  const segment = '000000030000000000000003';
  put(segment, makeSegment(segment));
  for (const name of ['00000002.history', '00000003.history', segment]) {
    await walPush(context, { path: `pg_wal/${name}` });
  }
  const { plan } = await deleteBackups(context, { sweep: true, confirm: false });
  expect(plan.refusal).toEqual(refusal);
});
