/** Entry of the wal-push bundle. Two plain arguments, as PostgreSQL gives them, need no parser; anything else is read by wal-t's. */
import process from 'node:process';
import { walPush } from '../../commands/wal-push.ts';
import { UsageError } from '../../errors.ts';
import { runParsed } from '../parsed.ts';
import { run } from '../run.ts';
import { collectSeldom } from '../seldom-collected.ts';

const program = 'wal-push';
const words = process.argv.slice(2);

if (words.some((word) => word.startsWith('-'))) {
  await runParsed(program);
} else {
  collectSeldom();
  await run(program, () => {
    const [path, name, ...others] = words;
    if (path === undefined || others.length > 0) {
      throw new UsageError('one or two arguments are needed', { hint: "Set archive_command = '… wal-push %p %f'." });
    }
    return {
      program,
      work: async (context) => {
        return walPush(context, { path, name, mayLookAhead: true });
      },
    };
  });
}
