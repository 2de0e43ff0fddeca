/** wal-t check: its flags, and its findings for people, for programs and for monitoring plugins. */

import type { Level } from '../../commands/check/finding.ts';
import type { CheckResult, NamedFinding } from '../../commands/check.ts';
import { type ConfigurationError, UsageError } from '../../errors.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import type { Outcome } from '../run.ts';
import { print } from '../terminal.ts';

const program = 'check';
const formats = ['text', 'json', 'nagios'] as const;
type Format = (typeof formats)[number];

export const addCheck: AddCommand = (parser, setJob) =>
  parser.command(
    `${program} [pgdata]`,
    'look at all that breaks at night, and say what to do',
    (options) =>
      options
        .positional('pgdata', { type: 'string', describe: 'the data directory of the server (WALT_PGDATA, PGDATA)' })
        .option('only', { type: 'string', requiresArg: true, describe: 'checks to do, separated by commas' })
        .option('skip', { type: 'string', requiresArg: true, describe: 'checks to leave out, separated by commas' })
        .option('max-backup-age', {
          type: 'string',
          default: '26h',
          requiresArg: true,
          describe: 'the newest backup may be so old: 26h, 8d',
        })
        .option('max-wal-age', {
          type: 'string',
          default: '15min',
          requiresArg: true,
          describe: 'the newest archived WAL may be so old while the server writes: 15min, 1h',
        })
        .option('format', { choices: formats, default: 'text' as Format, describe: 'how to print what was found' })
        .option('json', jsonFlag),
    (args) => {
      const format: Format = args.json ? 'json' : args.format;
      setJob(
        program,
        args,
        async (context) => {
          const { check } = await import('../../commands/check.ts');
          const result = await check(context, {
            dataDirectory: args.pgdata,
            only: namesIn(args.only),
            skip: namesIn(args.skip),
            maxBackupAgeMs: age('--max-backup-age', args.maxBackupAge),
            maxWalAgeMs: age('--max-wal-age', args.maxWalAge),
          });
          return tell(result, format);
        },
        { whenSettingsAreWrong: (error) => tell(wrongSettings(error), format) },
      );
    },
  );

function namesIn(list: string | undefined): string[] {
  return list?.split(',').map((name) => name.trim()) ?? [];
}

/** A time with a unit. @throws UsageError */
function age(flag: string, text: string): number {
  const units: Readonly<Record<string, number>> = { s: 1, min: 60, h: 3600, d: 86_400 };
  const match = /^(\d{1,6})\s*(s|min|h|d)$/.exec(text);
  const seconds = Number(match?.[1]) * (units[match?.[2] ?? ''] ?? Number.NaN);
  if (seconds > 0) return seconds * 1000;
  throw new UsageError(`${flag} cannot be "${text}"`, { hint: 'It must be a time such as 90s, 15min, 26h or 8d.' });
}

function wrongSettings({ message, detail, hint }: ConfigurationError): CheckResult {
  return { level: 'failed', findings: [{ check: 'settings', level: 'failed', message, detail, hint }] };
}

function tell(result: CheckResult, format: Format): Outcome {
  print({ text: describeText, json: formatJson, nagios: describeNagios }[format](result));
  if (format === 'nagios') return pluginOutcomes[result.level];
  // nothing looked at is nothing known to be well
  return result.level === 'ok' || result.level === 'warning' ? 'done' : 'checkFailed';
}

const pluginOutcomes: Readonly<Record<Level, Outcome>> = {
  ok: 'done',
  warning: 'pluginWarning',
  failed: 'pluginCritical',
  skipped: 'pluginUnknown',
};

const nothingDone = 'no check was done';

function describeText({ findings }: CheckResult): string {
  const width = Math.max(...findings.map(({ check }) => check.length));
  const lines = findings.flatMap((finding) => linesOf(finding, width));
  if (lines.length === 0) return nothingDone;
  return [...lines, '', countsOf(findings)].join('\n');
}

function linesOf({ level, check, message, detail, hint }: NamedFinding, width: number): string[] {
  const margin = ' '.repeat('skipped'.length + width + 4);
  return [
    `${level.padEnd('skipped'.length)}  ${check.padEnd(width)}  ${message}`,
    ...(detail === undefined ? [] : [`${margin}${detail}`]),
    ...(hint === undefined ? [] : [`${margin}→ ${hint}`]),
  ];
}

function countsOf(findings: readonly NamedFinding[]): string {
  const levels: readonly Level[] = ['failed', 'warning', 'ok', 'skipped'];
  const counts = levels.map((level) => [level, findings.filter((finding) => finding.level === level).length] as const);
  return counts
    .filter(([, count]) => count > 0)
    .map(([level, count]) => `${count} ${level}`)
    .join(', ');
}

const pluginWords: Readonly<Record<Level, string>> = {
  ok: 'OK',
  warning: 'WARNING',
  failed: 'CRITICAL',
  skipped: 'UNKNOWN',
};

/** One line with the worst, and the figures; then a line for each finding that is not ok. @see Monitoring Plugins' development guidelines */
function describeNagios({ level, findings }: CheckResult): string {
  const worst = findings.filter((finding) => finding.level === level);
  const [first] = worst;
  const said =
    level === 'ok' || first === undefined ? countsOf(findings) || nothingDone : `${first.check}: ${first.message}`;
  const more = level !== 'ok' && worst.length > 1 ? ` (and ${worst.length - 1} more)` : '';
  const figures = findings.flatMap((finding) => Object.entries(finding.figures ?? {}));
  const data = figures.map(([name, value]) => `${name}=${Number(value.toFixed(3))}${unitOf(name)}`).join(' ');
  const others = findings.filter((finding) => finding.level !== 'ok' && finding.level !== 'skipped');
  const head = `WAL-T ${pluginWords[level]}: ${said}${more}`.replaceAll('|', '/');
  const lines = others.map(({ level: own, check, message, hint }) =>
    `${own} ${check}: ${message}${hint === undefined ? '' : ` → ${hint}`}`.replaceAll('|', '/'),
  );
  return [data === '' ? head : `${head} | ${data}`, ...lines].join('\n');
}

function unitOf(name: string): string {
  if (name.endsWith('_seconds')) return 's';
  return name.endsWith('_bytes') ? 'B' : '';
}
