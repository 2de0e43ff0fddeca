/** Entry of the wal-fetch bundle. A restore_command as people and `restore` write it needs no parser; anything else is read by wal-t's. */
import process from 'node:process';
import { type WalFetchResult, walFetch } from '../../commands/wal-fetch.ts';
import { UsageError } from '../../errors.ts';
import { runParsed } from '../parsed.ts';
import { type Outcome, run } from '../run.ts';

const program = 'wal-fetch';
const wordsBefore = process.argv.slice(2, -2).join(' ');
const { flags, words } = takeFlags(process.argv.slice(2));

if (words.some((word) => word.startsWith('-'))) {
  await runParsed(program);
} else {
  await run(program, () => {
    const [name, path, ...others] = words;
    if (name === undefined || path === undefined || others.length > 0) {
      throw new UsageError('two arguments are needed', { hint: "Set restore_command = '… wal-fetch %f %p'." });
    }
    return {
      program,
      work: async (context) => outcomeOf(await walFetch(context, { ...flags, name, path, wordsBefore })),
    };
  });
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
