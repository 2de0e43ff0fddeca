/** Entry of the wal-fetch bundle. A restore_command as people and `restore` write it needs no parser; anything else is read by wal-t's. */
import process from 'node:process';
import type { Context } from '../../commands/context.ts';
import type { WalFetchArguments } from '../../commands/wal-fetch/prepare.ts';
import { type WalFetchResult, walFetch } from '../../commands/wal-fetch.ts';
import { UsageError } from '../../errors.ts';
import { runParsed } from '../parsed.ts';
import { type Outcome, run } from '../run.ts';

const program = 'wal-fetch';
/** In front of the command line of the reader, which is started in the background: see ../background.ts. */
const readerWord = '--read-ahead';
const isReader = process.argv[2] === readerWord;
const given = process.argv.slice(isReader ? 3 : 2);
const wordsBefore = given.slice(0, -2).join(' ');
const { flags, words } = takeFlags(given);

if (words.some((word) => word.startsWith('-'))) {
  await runParsed(program);
} else {
  await run(program, () => {
    const [name, path, ...others] = words;
    if (name === undefined || path === undefined || others.length > 0) {
      throw new UsageError('two arguments are needed', { hint: "Set restore_command = '… wal-fetch %f %p'." });
    }
    const all = { ...flags, name, path, wordsBefore, background };
    return {
      program,
      work: async (context) => (isReader ? readAhead(context, all) : outcomeOf(await walFetch(context, all))),
    };
  });
}

async function background(folder: string) {
  const { startReader } = await import('../background.ts');
  return startReader(folder, readerWord);
}

async function readAhead(context: Context, all: WalFetchArguments): Promise<Outcome> {
  const reader = await import('../../commands/wal-fetch/reader.ts');
  const { collectSeldom } = await import('../seldom-collected.ts');
  collectSeldom();
  return reader.readAhead(context, all, Number(process.env.WALT_LAUNCHER));
}

function outcomeOf(result: WalFetchResult): Outcome {
  return result === 'delivered' ? 'done' : result;
}

/** The flags that `restore` writes in front of the two arguments, and the words behind: there may be other flags among them. */
function takeFlags(given: readonly string[]) {
  const flags: { timeline?: string; endAt?: string; beside?: boolean } = {};
  const words = [...given];
  for (;;) {
    const [flag, value = '-'] = words;
    if (flag === '--beside') flags.beside = true;
    else if (value.startsWith('-')) break;
    else if (flag === '--timeline') flags.timeline = value;
    else if (flag === '--end-at') flags.endAt = value;
    else break;
    words.splice(0, flag === '--beside' ? 1 : 2);
  }
  return { flags, words };
}
