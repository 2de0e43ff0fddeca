/** basebackup-push: its flags, and what is printed of its result. */
import type { BackupManifest } from '../../archive/manifest.ts';
import type { BasebackupPushResult } from '../../commands/basebackup-push.ts';
import type { Context } from '../../commands/context.ts';
import { checksumAlgorithms } from '../../postgres/backup-manifest.ts';
import { formatLsn } from '../../postgres/lsn.ts';
import { segmentNameAt } from '../../postgres/wal-file-name.ts';
import { formatBytes, formatDuration } from '../../quantities.ts';
import { parseAge, parseAnnotations, parseMaxRate } from '../arguments.ts';
import { countBadPages, describeBadPage, listBadPages } from '../bad-pages.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import { longCommand } from '../long-command.ts';
import { print } from '../terminal.ts';

const program = 'basebackup-push';

export const addBasebackupPush: AddCommand = (parser, setJob) =>
  parser.command(
    [`${program} [pgdata]`, 'backup-push'],
    'store a base backup of a running cluster',
    (options) =>
      options
        .positional('pgdata', { type: 'string', describe: 'the data directory (WALT_PGDATA, PGDATA)' })
        .option('incremental', {
          type: 'boolean',
          default: false,
          describe: 'store what changed since the newest fit backup; a full one where there is none',
        })
        .option('parent', {
          type: 'string',
          requiresArg: true,
          describe: 'the backup to compare with; implies --incremental',
        })
        .option('full-every', {
          type: 'string',
          requiresArg: true,
          describe: 'a full one when the last full one is older: 12h, 7d, 4w; implies --incremental',
        })
        .option('trust-mtime', {
          type: 'boolean',
          default: true,
          describe: 'of an increment: skip files whose times, size and inode are as they were',
        })
        .option('max-part-age', {
          type: 'string',
          requiresArg: true,
          describe: 'of an increment: store afresh what stands in older parts, such as 30d',
        })
        .option('checkpoint', {
          choices: ['fast', 'spread'] as const,
          default: 'fast' as const,
          describe: 'how the checkpoint is made that it begins with',
        })
        .option('max-rate', {
          type: 'string',
          requiresArg: true,
          describe: 'kB/s that are read, at most; with a suffix k or M',
        })
        .option('annotate', {
          type: 'string',
          array: true,
          nargs: 1,
          default: [] as string[],
          defaultDescription: 'none',
          describe: 'key=value to be kept with it; may be given again',
        })
        .option('manifest-checksums', {
          choices: ['NONE', ...checksumAlgorithms] as const,
          default: 'CRC32C' as const,
          describe: 'of the files, for pg_verifybackup',
        })
        .option('label', { type: 'string', requiresArg: true, describe: "LABEL in the server's backup_label" })
        .option('json', jsonFlag),
    (args) => {
      // not by yargs' coerce, which keeps an error's message and loses its hint
      const maxRate = args.maxRate === undefined ? undefined : parseMaxRate(args.maxRate);
      const annotations = parseAnnotations(args.annotate);
      const { parent, trustMtime } = args;
      const fullEveryMs = args.fullEvery === undefined ? undefined : parseAge('--full-every', args.fullEvery);
      const maxPartAgeMs = args.maxPartAge === undefined ? undefined : parseAge('--max-part-age', args.maxPartAge);
      const incremental = args.incremental || parent !== undefined || fullEveryMs !== undefined;
      const increment = { incremental, parent, fullEveryMs, trustMtime, maxPartAgeMs };
      setJob(program, args, async (context) => {
        const { pgdata, checkpoint, label, manifestChecksums } = args;
        const choices = { pgdata, checkpoint, maxRate, annotations, label, manifestChecksums, ...increment };
        const { basebackupPush } = await import('../../commands/basebackup-push.ts');
        const result = await longCommand(program, context, (equipped) => basebackupPush(equipped, choices));
        print(args.json ? formatJson(result) : describeBasebackupPush(result));
        warnOfBadPages(context, result);
        return isFlawless(result) ? 'done' : 'checkFailed';
      });
    },
  );

/** As pg_basebackup: a backup with broken pages is kept, but nobody shall overlook it. */
function isFlawless({ manifest }: BasebackupPushResult): boolean {
  return manifest.badPages.count === 0;
}

/** On standard error, which a cron job sends home. */
function warnOfBadPages({ log }: Context, { manifest: { id, badPages } }: BasebackupPushResult): void {
  const [first] = badPages.pages;
  if (first === undefined) return;
  log.warning(
    `${countBadPages(badPages)} a wrong checksum in the cluster: ${describeBadPage(first)}${badPages.count > 1 ? ' …' : ''}`,
    {
      detail: `the base backup counts, and holds them as they are`,
      hint: `Look for a failing disk or memory on this host, and keep older backups. "wal-t verify ${id}" names all of them.`,
    },
  );
}

/** A summary for people: what was stored, how fast, what a restore will need, and what is to be done about broken pages. */
function describeBasebackupPush(result: BasebackupPushResult): string {
  const { manifest, seconds } = result;
  const { id, timeline, startLsn, consistentLsn, walSegmentBytes, badPages, statistics } = manifest;
  const { rawBytes, storedBytes, files, parts } = statistics;
  const ratio = storedBytes === 0 ? '' : `, ${(rawBytes / storedBytes).toFixed(1)} : 1`;
  const [first, last] = [startLsn, consistentLsn - 1n].map((lsn) => segmentNameAt(timeline, lsn, walSegmentBytes));
  return [
    `stored base backup ${id}`,
    `  size  ${formatBytes(rawBytes)} -> ${formatBytes(storedBytes)} stored${ratio}; ${files} files in ${parts} parts`,
    ...(manifest.type === 'incremental' ? [describeIncrement(result)] : []),
    `  time  ${formatDuration(seconds * 1000)}, ${formatBytes(rawBytes / Math.max(seconds, 0.001))}/s`,
    `  WAL   ${first === last ? first : `${first} to ${last}`}, ${formatLsn(startLsn)} to ${formatLsn(consistentLsn)}`,
    ...(badPages.count === 0 ? [] : describeDamage(manifest)),
  ].join('\n');
}

function describeIncrement({ manifest: { parent, statistics }, readBytes }: BasebackupPushResult): string {
  const { rawBytes, storedBytes, usedBytes = storedBytes } = statistics;
  const share = rawBytes === 0 ? '' : ` (${((100 * readBytes) / rawBytes).toFixed(1)} %)`;
  const used = `with ${formatBytes(usedBytes - storedBytes)} of earlier backups' parts it is whole`;
  return `  since ${parent}: ${formatBytes(readBytes)} of files read${share}; ${used}`;
}

function describeDamage({ badPages }: BackupManifest): string[] {
  return [
    `${countBadPages(badPages)} a wrong checksum, in the cluster itself:`,
    ...listBadPages(badPages),
    'The backup counts, and holds these pages as they are. What to do:',
    '- look for a failing disk, memory or file system on this host (its kernel log), and keep older backups meanwhile',
    "- find the tables and indexes: select oid::regclass from pg_class where pg_relation_filepath(oid) = 'base/...'",
    '- an index is mended by REINDEX; for a table restore an older backup beside, to a time before the damage, and take its rows',
  ];
}
