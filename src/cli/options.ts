/** The command line of `wal-t`: what all its commands have in common. Each command is a file of commands/. */
import process from 'node:process';
import yargs from 'yargs';
import packageJson from '../../package.json' with { type: 'json' };
import { exitCodeMeanings, UsageError } from '../errors.ts';
import type { AddCommand, GlobalFlags, Parser, SetJob } from './command.ts';
import { addBackupList } from './commands/backup-list.ts';
import { addBasebackupFetch } from './commands/basebackup-fetch.ts';
import { addBasebackupPush } from './commands/basebackup-push.ts';
import { addCheck } from './commands/check.ts';
import { addConfig } from './commands/config.ts';
import { addDelete } from './commands/delete.ts';
import { addInit } from './commands/init.ts';
import { addKeygen } from './commands/keygen.ts';
import { addPin, addUnpin } from './commands/pin.ts';
import { addRestore } from './commands/restore.ts';
import { addSidecar } from './commands/sidecar.ts';
import { addVerify } from './commands/verify.ts';
import { addWalDiff, addWalSetAside } from './commands/wal-conflict.ts';
import { addWalFetch } from './commands/wal-fetch.ts';
import { addWalList } from './commands/wal-list.ts';
import { addWalPush } from './commands/wal-push.ts';
import { addWindows } from './commands/windows.ts';
import type { Job } from './run.ts';
import { hasThreads } from './workers.ts';

/** In the order of `--help`. */
const commands: readonly AddCommand[] = [
  addInit,
  addConfig,
  addKeygen,
  addWalPush,
  addWalFetch,
  addBasebackupPush,
  addBasebackupFetch,
  addBackupList,
  addVerify,
  addCheck,
  addRestore,
  addWindows,
  addWalList,
  addDelete,
  addPin,
  addUnpin,
  addSidecar,
  addWalDiff,
  addWalSetAside,
];

/**
 * The job that the command line asks for; one that does nothing when help or the version was all that was asked for.
 * @throws UsageError when it asks for nothing that exists.
 */
export async function parseCommandLine(words: readonly string[]): Promise<Job> {
  let job: Job = { program: 'wal-t', work: async () => 'shown' };
  const setJob: SetJob = (program, flags, work, more = {}) => {
    job = { program, overrides: overridesOf(flags), work, hasThreads, ...more };
  };
  await commands.reduce((parser, add) => add(parser, setJob), commonParser()).parseAsync(words);
  return job;
}

function commonParser(): Parser {
  return yargs()
    .scriptName('wal-t')
    .usage('$0 <command>: continuous archiving and point-in-time recovery for PostgreSQL')
    .option('config', { type: 'string', requiresArg: true, describe: 'file of settings (WALT_CONFIG)' })
    .option('cluster', { type: 'string', requiresArg: true, describe: 'system identifier (WALT_SYSTEM_IDENTIFIER)' })
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
}

function overridesOf({ config, cluster }: GlobalFlags): Readonly<Record<string, string>> {
  return {
    ...(config === undefined ? {} : { WALT_CONFIG: config }),
    ...(cluster === undefined ? {} : { WALT_SYSTEM_IDENTIFIER: cluster }),
  };
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
