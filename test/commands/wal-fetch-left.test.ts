/** H2: how much of an old timeline's segment a standby is given that does not know yet that a new timeline has left it there. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { init } from '../../src/commands/init.ts';
import { walFetch } from '../../src/commands/wal-fetch.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { CorruptError } from '../../src/errors.ts';
import { makeContext } from '../support/context.ts';
import { temporaryFolder } from '../support/folders.ts';
import { flipByte } from '../support/recovery.ts';
import { makeDataDirectory, makeSegment, testSystemIdentifier } from '../support/segment.ts';

const parted = '000000010000000000000002';
const next = '000000010000000000000003';
const content = makeSegment(parted);
const switchOffset = 0x80000;
/** As if it had been streamed up to there. */
const own = (bytes: number) => Buffer.concat([content.subarray(0, bytes)], content.length);

interface World {
  /** Where the new timeline left the old one. */
  readonly switchLsn?: string;
  readonly goal?: string;
  readonly ownBytes?: number;
  /** The first segment of the new timeline that is stored. */
  readonly first?: string;
  readonly isDamaged?: boolean;
  readonly name?: string;
}

async function fetched({ switchLsn = '0/280000', goal, ownBytes, first, isDamaged = false, name = parted }: World) {
  const folder = temporaryFolder();
  const [data, repo] = [join(folder, 'data'), join(folder, 'repo')];
  mkdirSync(data);
  const put = makeDataDirectory(data);
  const context = makeContext({ WALT_REPO: `file://${repo}` }, { workingDirectory: data });
  await init(context, { adopt: false });
  put('00000002.history', Buffer.from(`1\t${switchLsn}\tno recovery target specified\n`));
  const names = [parted, next, ...(first === undefined ? [] : [first])];
  for (const one of names) put(one, one === parted ? content : makeSegment(one));
  for (const one of [...names, '00000002.history']) await walPush(context, { path: `pg_wal/${one}` });
  if (isDamaged) flipByte(join(repo, testSystemIdentifier, 'wal/history/00000002.history'));
  put(parted, ownBytes === undefined ? makeSegment(parted, { seed: 'recycled' }) : own(ownBytes));
  writeFileSync(join(data, 'standby.signal'), '');
  writeFileSync(join(data, 'postgresql.conf'), goal === undefined ? '' : `recovery_target_timeline = ${goal}\n`);
  const result = await walFetch(context, { name, path: 'pg_wal/RECOVERYXLOG' });
  if (result === 'absent') return result;
  const got = readFileSync(join(data, 'pg_wal/RECOVERYXLOG'));
  return got.equals(name === parted ? content : makeSegment(name))
    ? 'all'
    : got.equals(own(switchOffset))
      ? 'beginning'
      : 'wrong';
}

it.each<readonly [string, World, string]>([
  ['only the part before', {}, 'beginning'],
  ['only the part before, by its name', { goal: "'latest'" }, 'beginning'],
  ['only the part before, which it has itself', { ownBytes: switchOffset }, 'beginning'],
  ['nothing, where it was left at its edge', { switchLsn: '0/200000' }, 'absent'],
  ['all, where it has replayed more', { ownBytes: switchOffset + 8192 }, 'all'],
  ['all, where it follows a timeline by its number', { goal: '1' }, 'all'],
  ['all, where it stays on its own', { goal: 'current' }, 'all'],
  ['all of what comes behind: it was not left there', { name: next }, 'all'],
  ['all of what comes before', { switchLsn: '0/380000' }, 'all'],
  [
    'all, where the history is damaged and the timelines part elsewhere',
    { isDamaged: true, first: '000000020000000000000004' },
    'all',
  ],
])('H2: gives a standby %s', async (_, world, expected) => {
  expect(await fetched(world)).toBe(expected);
});

it.each<World>([{ isDamaged: true }, { isDamaged: true, first: '000000020000000000000002' }])(
  'H2: gives a standby nothing where a damaged history may tell of its end: %o',
  async (world) => {
    await expect(fetched(world)).rejects.toBeInstanceOf(CorruptError);
  },
);
