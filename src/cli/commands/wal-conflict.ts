/** wal-t wal-diff, wal-t wal-set-aside: the way out of a conflict. */
import type { WalDiff } from '../../commands/wal-diff.ts';
import type { SetAsideResult } from '../../commands/wal-set-aside.ts';
import { formatLsn } from '../../postgres/lsn.ts';
import { formatBytes } from '../../quantities.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import { print } from '../terminal.ts';

export const addWalDiff: AddCommand = (parser, setJob) =>
  parser.command(
    'wal-diff <name> <path>',
    'compare a stored WAL file with one of the same name',
    (options) =>
      options
        .positional('name', { type: 'string', demandOption: true, describe: 'the stored one' })
        .positional('path', { type: 'string', demandOption: true, describe: 'the other one, such as pg_wal/…' })
        .option('json', jsonFlag),
    (args) =>
      setJob('wal-diff', args, async (context) => {
        const { walDiff } = await import('../../commands/wal-diff.ts');
        const result = await walDiff(context, args);
        print(args.json ? formatJson(result) : describeDiff(result, args.path));
        return result.difference === undefined ? 'done' : 'checkFailed';
      }),
  );

function describeDiff({ name, stored, fileBytes, difference }: WalDiff, path: string): string {
  const lines = [
    `stored  ${name}: ${formatBytes(stored.bytes)}, pushed ${stored.pushedAt} by ${stored.host}, SHA-256 ${stored.sha256}`,
    `other   ${path}: ${formatBytes(fileBytes)}`,
  ];
  if (difference === undefined) return [...lines, 'they are the same'].join('\n');
  const { offset, lsn } = difference;
  return [...lines, `they differ from byte ${offset} on${lsn === undefined ? '' : `, LSN ${formatLsn(lsn)}`}`].join(
    '\n',
  );
}

export const addWalSetAside: AddCommand = (parser, setJob) =>
  parser.command(
    'wal-set-aside <name>',
    'move a stored WAL file out of the way of another of its name',
    (options) =>
      options
        .positional('name', { type: 'string', demandOption: true, describe: 'the stored one' })
        .option('confirm', { type: 'boolean', default: false, describe: 'do it; without it nothing is moved' })
        .option('json', jsonFlag),
    (args) =>
      setJob('wal-set-aside', args, async (context) => {
        const { walSetAside } = await import('../../commands/wal-set-aside.ts');
        const result = await walSetAside(context, args);
        print(args.json ? formatJson(result) : describeSetAside(result));
        return 'done';
      }),
  );

function describeSetAside({ key, asideKey, sizeBytes, moved }: SetAsideResult): string {
  if (!moved) {
    return `"${key}" (${formatBytes(sizeBytes)}) would be moved to "${asideKey}": with --confirm it is\nnothing was moved`;
  }
  return [
    `"${key}" is now "${asideKey}"`,
    'the server whose file it is not archives its own at its next attempt; until then the archive has a hole there',
  ].join('\n');
}
