/** The command line of `wal-t`: its commands, flags and help. What they do is in `commands/`. */
import process from 'node:process';
import yargs from 'yargs';
import packageJson from '../../package.json' with { type: 'json' };
import { describeConfig } from '../commands/config.ts';
import { init } from '../commands/init.ts';
import { keygen } from '../commands/keygen.ts';
import { walFetch } from '../commands/wal-fetch.ts';
import { walPush } from '../commands/wal-push.ts';
import { exitCodeMeanings, UsageError } from '../errors.ts';
import { describeInit } from './init-advice.ts';
import type { Job, Outcome } from './run.ts';
import { formatTable, print } from './terminal.ts';

/**
 * The job that the command line asks for; one that does nothing when help or the version was all that was asked for.
 * @throws UsageError when it asks for nothing that exists.
 */
export async function parseCommandLine(words: readonly string[]): Promise<Job> {
  let job: Job = { program: 'wal-t', work: async () => 'shown' };
  const parser = yargs()
    .scriptName('wal-t')
    .usage('$0 <command>: continuous archiving and point-in-time recovery for PostgreSQL')
    .option('config', { type: 'string', requiresArg: true, describe: 'file of settings (WALT_CONFIG)' })
    .option('cluster', { type: 'string', requiresArg: true, describe: 'system identifier (WALT_SYSTEM_IDENTIFIER)' })
    .command(
      'init',
      'make the repository, once, and say what to write into postgresql.conf',
      (options) =>
        options
          .option('adopt', {
            type: 'boolean',
            default: false,
            describe: 'archive the cluster in WALT_PGDATA here from now on',
          })
          .option('json', { type: 'boolean', default: false, describe: 'print the result as JSON' }),
      (args) => {
        job = jobOf('wal-t', args, async (context, entries) => {
          const result = await init(context, args);
          print(args.json ? JSON.stringify(result, undefined, 2) : describeInit(result, entries));
          return 'done';
        });
      },
    )
    .command(
      'config',
      'show which settings are in force, and where each comes from',
      (options) => options.option('json', { type: 'boolean', default: false, describe: 'print them as JSON' }),
      (args) => {
        job = jobOf('wal-t', args, async (_context, entries) => {
          const lines = describeConfig(entries);
          print(
            args.json
              ? JSON.stringify(lines, undefined, 2)
              : formatTable(lines.map(({ name, value, source }) => [name, value, source])),
          );
          return 'done';
        });
      },
    )
    .command(
      'keygen',
      'make an age identity to decrypt with, and its public key to encrypt to',
      (options) =>
        options
          .option('auth', {
            type: 'boolean',
            default: false,
            describe: 'an authentication key instead (WALT_AUTH_KEY_FILE)',
          })
          .option('output', { alias: 'o', type: 'string', requiresArg: true, describe: 'write it to this new file' }),
      (args) => {
        job = jobOf('wal-t', args, async (context) => {
          const { text, publicKey } = await keygen(args);
          if (args.output === undefined) print(text.trimEnd());
          else if (publicKey !== undefined) context.log.info(`public key: ${publicKey}`);
          return 'done';
        });
      },
    )
    .command(
      'wal-push <path> [name]',
      "archive_command = '… wal-push %p %f'",
      (options) =>
        options
          .positional('path', { type: 'string', demandOption: true, describe: '%p: the file' })
          .positional('name', { type: 'string', describe: '%f: its name' }),
      (args) => {
        job = jobOf('wal-push', args, async (context) => {
          await walPush(context, args);
          return 'done';
        });
      },
    )
    .command(
      'wal-fetch <name> <path>',
      "restore_command = '… wal-fetch %f %p'",
      (options) =>
        options
          .positional('name', { type: 'string', demandOption: true, describe: '%f: the file that is wanted' })
          .positional('path', { type: 'string', demandOption: true, describe: '%p: where to put it' })
          .epilogue(
            'Exit codes: 0 delivered; 1 the proved end of the WAL; 200 any failure, under standby.signal its own',
          ),
      (args) => {
        job = jobOf(
          'wal-fetch',
          args,
          async (context): Promise<Outcome> => ((await walFetch(context, args)) === 'delivered' ? 'done' : 'absent'),
        );
      },
    )
    .demandCommand(1, 'no command is given')
    .strict()
    .recommendCommands()
    .version(packageJson.version)
    .help()
    .alias('help', 'h')
    .epilogue(`Exit codes:\n${exitCodeLines()}`)
    .wrap(Math.min(process.stdout.columns ?? 100, 120))
    .locale('en')
    .exitProcess(false)
    .fail((message, error) => {
      throw error === undefined || error.name === 'YError' ? usageError(message) : error;
    });
  await parser.parseAsync(words);
  return job;
}

interface GlobalFlags {
  readonly config: string | undefined;
  readonly cluster: string | undefined;
}

function jobOf(program: string, { config, cluster }: GlobalFlags, work: Job['work']): Job {
  const given = Object.entries({ WALT_CONFIG: config, WALT_SYSTEM_IDENTIFIER: cluster });
  const overrides = Object.fromEntries(given.filter(([, value]) => value !== undefined));
  return { program, overrides, work };
}

function exitCodeLines(): string {
  return Object.entries(exitCodeMeanings)
    .map(([code, meaning]) => `  ${code.padStart(2)}  ${meaning}`)
    .join('\n');
}

/** From yargs's words to ours. */
function usageError(message: string): UsageError {
  if (message.startsWith('Did you mean')) return new UsageError('unknown command', { hint: message });
  return new UsageError(firstLower(message.split('\n').join('; ')), {
    hint: 'wal-t --help shows the commands, wal-t <command> --help the flags of one.',
  });
}

function firstLower(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}
