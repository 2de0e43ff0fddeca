/** wal-push with flags; without any it needs no parser: see main/wal-push.ts. */
import { walPush } from '../../commands/wal-push.ts';
import type { MissingResult } from '../../commands/wal-push-missing.ts';
import { UsageError } from '../../errors.ts';
import type { AddCommand } from '../command.ts';
import { print } from '../terminal.ts';

export const addWalPush: AddCommand = (parser, setJob) =>
  parser.command(
    'wal-push [path] [name]',
    "archive_command = '… wal-push %p %f'",
    (options) =>
      options
        .positional('path', { type: 'string', describe: '%p: the file; with --missing the data directory' })
        .positional('name', { type: 'string', describe: '%f: its name' })
        .option('missing', {
          type: 'boolean',
          default: false,
          describe: 'push what is done in pg_wal and is not in the archive, as after a failover',
        }),
    (args) =>
      setJob('wal-push', args, async (context) => {
        const { path, name, missing } = args;
        if (!missing) {
          if (path === undefined) {
            throw new UsageError('one or two arguments are needed', {
              hint: "Set archive_command = '… wal-push %p %f'.",
            });
          }
          await walPush(context, { path, name });
          return 'done';
        }
        if (name !== undefined) throw new UsageError('--missing takes the data directory alone');
        const { walPushMissing } = await import('../../commands/wal-push-missing.ts');
        const result = await walPushMissing(context, { pgdata: path });
        for (const { error } of result.failed) context.log.error(error.message, error);
        print(describeMissing(result));
        return result.failed.length > 0 ? 'checkFailed' : 'done';
      }),
  );

function describeMissing({ looked, pushed, failed }: MissingResult): string {
  const summary = `${looked} finished files in pg_wal; ${pushed.length} were missing in the archive and are there now`;
  return [
    summary,
    ...pushed.map((name) => `  ${name}`),
    ...failed.map(({ name }) => `  ${name}: could not be pushed`),
  ].join('\n');
}
