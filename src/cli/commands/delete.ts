/** wal-t delete: its flags, the plan, and what was removed. */
import type { DeleteArguments, DeleteResult } from '../../commands/delete.ts';
import { UsageError } from '../../errors.ts';
import { formatLsn } from '../../postgres/lsn.ts';
import { formatBytes } from '../../quantities.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import { print } from '../terminal.ts';

const program = 'delete';

export const addDelete: AddCommand = (parser, setJob) =>
  parser.command(
    program,
    'remove the backups and the WAL that a policy no longer needs',
    (options) =>
      options
        .option('retain', count('keep the newest so many backups'))
        .option('keep-days', count('keep whatever restores each moment of the last so many days'))
        .option('keep-daily', count('keep the newest backup of each of so many days'))
        .option('keep-weekly', count('of so many weeks'))
        .option('keep-monthly', count('of so many months'))
        .option('keep-yearly', count('of so many years'))
        .option('before', {
          type: 'string',
          requiresArg: true,
          describe: 'remove what is older than this time or backup',
        })
        .option('backup', { type: 'string', requiresArg: true, describe: 'remove this backup' })
        .option('sweep', { type: 'boolean', default: false, describe: 'remove only what failed backups have left' })
        .option('confirm', { type: 'boolean', default: false, describe: 'do it; without it the plan is shown' })
        .option('json', jsonFlag),
    (args) =>
      setJob(program, args, async (context) => {
        const { deleteBackups } = await import('../../commands/delete.ts');
        const counts = {
          retain: parseCount('retain', args.retain),
          keepDays: parseCount('keep-days', args.keepDays),
          keepDaily: parseCount('keep-daily', args.keepDaily),
          keepWeekly: parseCount('keep-weekly', args.keepWeekly),
          keepMonthly: parseCount('keep-monthly', args.keepMonthly),
          keepYearly: parseCount('keep-yearly', args.keepYearly),
        };
        const result = await deleteBackups(context, { ...args, ...counts } satisfies DeleteArguments);
        print(args.json ? formatJson(jsonOf(result)) : describeDelete(result));
        return result.failed.length > 0 || result.plan.refusal !== undefined ? 'checkFailed' : 'done';
      }),
  );

function count(describe: string) {
  return { type: 'string', requiresArg: true, describe } as const;
}

function parseCount(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^[1-9]\d{0,6}$/.test(text)) return Number(text);
  throw new UsageError(`--${flag} cannot be "${text}"`, {
    hint: "Give a whole number of at least 1. To remove a whole archive use the storage's own tools.",
  });
}

/** Maps are no JSON. */
function jsonOf({ plan, removable, removed, failed }: DeleteResult): object {
  return {
    keep: plan.keep,
    remove: plan.remove,
    refusal: plan.refusal,
    walNeeded: plan.walNeeded,
    objects: removable.manifests.length + removable.others.length,
    bytes: removable.bytes,
    removed,
    failed: failed.map(({ key, error }) => ({ key, reason: error.message })),
  };
}

function describeDelete({ plan, removable, removed, failed }: DeleteResult): string {
  const { keep, remove, walNeeded, refusal } = plan;
  const lines = [
    ...keep.map(({ id, reasons }) => `keep    ${id}: ${reasons.join('; ')}`),
    ...remove.map(({ id, reasons }) => `remove  ${id}: ${reasons.join('; ')}`),
    `${removable.partObjects} parts and ${removable.walObjects} WAL files go with them, ${formatBytes(removable.bytes)} in all`,
    ...walNeeded.map(
      ({ timeline, startLsn, endLsn, why }) =>
        `WAL of timeline ${timeline} from ${formatLsn(startLsn)} ${endLsn === 'open' ? 'on' : `to ${formatLsn(endLsn)}`} stays: ${why}`,
    ),
    ...failed.map(({ key, error }) => `could not remove ${key}: ${error.message}`),
    ...(refusal === undefined ? [] : [`refused: ${refusal}`]),
  ];
  if (removed === undefined) return [...lines, 'nothing was deleted'].join('\n');
  return [...lines, `${removed.objects} objects were removed, ${formatBytes(removed.bytes)}`].join('\n');
}
