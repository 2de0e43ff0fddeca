/** wal-t wal-list: timelines, ranges, holes. */
import type { ListedTimeline, WalList } from '../../commands/wal-list.ts';
import { formatLsn } from '../../postgres/lsn.ts';
import { formatBytes } from '../../quantities.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import { print } from '../terminal.ts';

const program = 'wal-list';

export const addWalList: AddCommand = (parser, setJob) =>
  parser.command(
    program,
    'show the timelines and which WAL of each is stored',
    (options) => options.option('json', jsonFlag),
    (args) =>
      setJob(program, args, async (context) => {
        const { walList } = await import('../../commands/wal-list.ts');
        const result = await walList(context);
        print(args.json ? formatJson(result) : describeWalList(result));
        return 'done';
      }),
  );

function describeWalList({ systemIdentifier, segmentSizeBytes, timelines }: WalList): string {
  if (segmentSizeBytes === undefined) return `no WAL of system ${systemIdentifier} is stored`;
  return [
    `system ${systemIdentifier}, segments of ${formatBytes(segmentSizeBytes)}`,
    ...timelines.flatMap(describeTimeline),
  ].join('\n');
}

function describeTimeline({
  timeline,
  parent,
  hasHistory,
  segments,
  storedBytes,
  ranges,
  holes,
  partials,
}: ListedTimeline): string[] {
  const origin = parent === undefined ? '' : `, from timeline ${parent.timeline} at ${formatLsn(parent.switchLsn)}`;
  const history = hasHistory ? '' : ', ITS HISTORY IS NOT STORED';
  return [
    `timeline ${timeline}${origin}${history}: ${segments} segments in ${formatBytes(storedBytes)}`,
    ...ranges.flatMap(({ first, last, segments: count }, index) => {
      const hole = holes[index];
      const behind = hole === undefined ? [] : [`  HOLE of ${hole.segments} segments from ${hole.first}`];
      return [`  ${first} to ${last}, ${count} segments`, ...behind];
    }),
    ...partials.map((name) => `  ${name}`),
  ];
}
