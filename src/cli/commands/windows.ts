/** wal-t windows: its flags, and the moments that can be restored. */

import { describeHole } from '../../archive/window.ts';
import { formatTime } from '../../commands/restore/target.ts';
import type { Reachable, TimelineWindows, Window, WindowsResult } from '../../commands/windows.ts';
import { formatLsn } from '../../postgres/lsn.ts';
import { formatBytes } from '../../quantities.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import { print } from '../terminal.ts';

const program = 'windows';

export const addWindows: AddCommand = (parser, setJob) =>
  parser.command(
    program,
    'show which moments can be restored',
    (options) =>
      options
        .option('at', {
          type: 'string',
          requiresArg: true,
          describe: 'can this time be reached, and from which backup?',
        })
        .option('json', jsonFlag),
    (args) =>
      setJob(program, args, async (context) => {
        const { windows } = await import('../../commands/windows.ts');
        const result = await windows(context, args);
        print(args.json ? formatJson(result) : describeWindows(result));
        return result.at?.isReachable === false ? 'checkFailed' : 'done';
      }),
  );

function describeWindows({ timelines, at }: WindowsResult): string {
  const lines = timelines.flatMap(describeTimeline);
  return [...lines, ...(at === undefined ? [] : describeReachable(at))].join('\n');
}

function describeTimeline({ timeline, parent, isMain, windows, problem }: TimelineWindows): string[] {
  const origin = parent === undefined ? '' : `, from timeline ${parent.timeline} at ${formatLsn(parent.switchLsn)}`;
  const head = `timeline ${timeline}${origin}${isMain ? ' (restored to unless another is asked for)' : ''}`;
  return [head, ...windows.flatMap(describeWindow), ...(problem === undefined ? [] : [`  nothing: ${problem}`])];
}

function describeWindow({ from, to, backups, hole }: Window): string[] {
  const until = to.time === undefined ? 'no transaction since' : formatTime(to.time);
  return [
    `  from ${formatTime(from.time)} to ${until}`,
    `       ${formatLsn(from.lsn)} to ${formatLsn(to.lsn)}, from ${backups.length === 1 ? '1 backup' : `${backups.length} backups`}: ${backups.join(', ')}`,
    ...(hole === undefined ? [] : [`  HOLE ${describeHole(hole)}`]),
  ];
}

function describeReachable(at: Reachable): string[] {
  if (!at.isReachable) return [`not reachable: ${at.reason}`, ...(at.detail === undefined ? [] : [`  ${at.detail}`])];
  const { plan, backupBytes, walBytes } = at;
  return [
    `reachable: from backup ${plan.backup.id} on timeline ${plan.timeline}`,
    `  ${formatBytes(backupBytes)} of the backup and ${plan.segments} segments of WAL (${formatBytes(walBytes)}) are to be fetched`,
    ...plan.notes.map((note) => `  ${note}`),
  ];
}
