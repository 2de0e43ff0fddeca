/** wal-t restore: its flags, and the plan or what was done. */
import process from 'node:process';
import type { RestoreArguments, RestoreResult } from '../../commands/restore.ts';
import { UsageError } from '../../errors.ts';
import { formatBytes, formatDuration } from '../../quantities.ts';
import { parseTablespaceMapping } from '../arguments.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import { restoringCommand } from '../long-command.ts';
import { environmentAdvice, ownCommand, shellQuoted } from '../own-commands.ts';
import { amounts, deltaFlag, dirDescription, oldWalLines } from '../restored.ts';
import { print } from '../terminal.ts';

const program = 'restore';

export const addRestore: AddCommand = (parser, setJob) =>
  parser.command(
    `${program} <dir>`,
    'bring a cluster back to a moment',
    (options) =>
      options
        .positional('dir', { type: 'string', demandOption: true, describe: dirDescription })
        .option('target-time', { type: 'string', requiresArg: true, describe: 'such as "2026-11-20 08:30:00+01"' })
        .option('target-lsn', { type: 'string', requiresArg: true, describe: 'such as 16/B374D848' })
        .option('target-name', { type: 'string', requiresArg: true, describe: 'of pg_create_restore_point' })
        .option('target-xid', { type: 'string', requiresArg: true, describe: 'a transaction id' })
        .option('target-immediate', {
          type: 'boolean',
          default: false,
          describe: 'as soon as the backup is consistent',
        })
        .option('target-timeline', {
          type: 'string',
          requiresArg: true,
          describe: 'its number; by default the one last written to',
        })
        .option('target-inclusive', {
          type: 'boolean',
          default: false,
          describe: 'stop behind the target (the default)',
        })
        .option('target-exclusive', { type: 'boolean', default: false, describe: 'stop before the target' })
        .option('target-action', {
          choices: ['promote', 'pause', 'shutdown'] as const,
          default: 'promote' as const,
          describe: 'what PostgreSQL does when it is there',
        })
        .option('standby', { type: 'boolean', default: false, describe: 'a standby that follows for ever' })
        .option('primary-conninfo', { type: 'string', requiresArg: true, describe: 'where the standby streams from' })
        .option('backup', { type: 'string', requiresArg: true, describe: 'its name; by default the newest that fits' })
        .option('tablespace-mapping', {
          alias: 'T',
          type: 'string',
          array: true,
          nargs: 1,
          default: [],
          defaultDescription: 'none',
          describe: 'OLD=NEW: where a tablespace goes; may be given again',
        })
        .option('until-hole', { type: 'boolean', default: false, describe: 'go to a hole in the WAL, and no further' })
        .option('take-over', { type: 'boolean', default: false, describe: 'this is the new production server' })
        .option('dry-run', { type: 'boolean', default: false, describe: 'print the plan and do nothing' })
        .option('scan', {
          type: 'boolean',
          default: false,
          describe: 'find a name or a transaction in the WAL beforehand',
        })
        .option('resume', { type: 'boolean', default: false, describe: 'go on with one that was interrupted' })
        .option('delta', deltaFlag)
        .option('json', jsonFlag),
    (args) =>
      setJob(program, args, async (context, entries) => {
        if (args.targetInclusive && args.targetExclusive)
          throw new UsageError('a target is inclusive or exclusive, not both');
        const choices: RestoreArguments = {
          ...args,
          tablespaceMapping: parseTablespaceMapping(args.tablespaceMapping),
          target: {
            time: args.targetTime,
            lsn: args.targetLsn,
            name: args.targetName,
            xid: args.targetXid,
            immediate: args.targetImmediate,
          },
          inclusive: !args.targetExclusive,
          action: args.targetAction,
          timeline: parseTimeline(args.targetTimeline),
          walFetch: (flags) => ownCommand(entries, 'wal-fetch', [...flags, '%f', '%p'].join(' ')),
          again: (backup) =>
            commandLine([
              ...(args.backup === undefined ? ['--backup', backup] : []),
              ...(args.resume || args.delta ? [] : ['--resume']),
            ]),
        };
        const { restore } = await import('../../commands/restore.ts');
        const result = await restoringCommand(program, context, (equipped) => restore(equipped, choices));
        print(
          args.json
            ? formatJson(result)
            : [
                describeRestore(result),
                ...environmentAdvice(entries),
                ...oldWalLines(result.restored, result.offeredWal),
              ].join('\n'),
        );
        return 'done';
      }),
  );

/** What was typed, and more. */
function commandLine(more: readonly string[]): string {
  return ['wal-t', ...process.argv.slice(2).map(shellQuoted), ...more].join(' ');
}

function parseTimeline(text: string | undefined): number | undefined {
  if (text === undefined || text === 'latest') return undefined;
  if (/^[1-9]\d{0,9}$/.test(text)) return Number(text);
  throw new UsageError(`"${text}" is no timeline`, {
    hint: 'Give its number, in decimal; "wal-t wal-list" shows them.',
  });
}

function describeRestore(result: RestoreResult): string {
  const { plan, folder, restored, beside, walBytes } = result;
  const { backup, timeline, segments, chain } = plan;
  const lines = [
    `backup    ${backup.id}: ${formatBytes(backup.statistics.rawBytes)}, ${formatBytes(backup.statistics.storedBytes)} to fetch`,
    `timeline  ${timeline}`,
    `WAL       ${segments} segments from ${chain.segments[0]?.name ?? 'none'}, ${formatBytes(walBytes)}`,
    `folder    ${folder}`,
  ];
  if (restored === undefined) {
    return [
      ...lines,
      `settings  ${result.signal}, and in postgresql.auto.conf:`,
      ...settingsOf(result),
      'nothing was done',
    ].join('\n');
  }
  return [
    ...lines,
    `          ${amounts(restored)}`,
    `restored in ${formatDuration(restored.seconds * 1000)}; now start PostgreSQL: ${startLine(result)}`,
    ...result.foreignSettings.map(({ file, name, value, why }) => `look at ${name} = '${value}' in ${file}: ${why}`),
    ...(beside ? besideLines(result) : openLines(result)),
  ].join('\n');
}

function settingsOf({ settings }: RestoreResult): string[] {
  return Object.entries(settings).map(([name, value]) => `          ${name} = '${value}'`);
}

function startLine({ folder, configFile }: RestoreResult): string {
  if (configFile === undefined) return `pg_ctl -D ${folder} start`;
  const hba = configFile.replace(/postgresql\.conf$/, 'pg_hba.conf');
  const ident = configFile.replace(/postgresql\.conf$/, 'pg_ident.conf');
  const flags = [
    `config_file=${folder}/${configFile}`,
    `data_directory=${folder}`,
    `hba_file=${folder}/${hba}`,
    `ident_file=${folder}/${ident}`,
  ];
  return `pg_ctl -D ${folder} start -o "${flags.map((flag) => `-c ${flag}`).join(' ')}"`;
}

function besideLines({ statements: { arming, recovery } }: RestoreResult): string[] {
  return [
    'this copy stands beside: it archives nothing and subscribes to nothing, and its tablespaces are below its folder',
    `to make it the production server: ${[...arming, ...recovery].join(' ')} restart it, and take a full base backup`,
  ];
}

function openLines({ signal, statements: { recovery } }: RestoreResult): string[] {
  const first = 'it archives as before: take a full base backup when it is open';
  if (signal === 'standby.signal') return [first];
  return [
    first,
    `and take back what was set for this recovery, since a standby copied from it would stop there: ${recovery.join(' ')}`,
  ];
}
