/** Entry of the wal-fetch bundle. Two plain arguments, as PostgreSQL gives them, need no parser; anything else is read by wal-t's. */
import process from 'node:process';
import { walFetch } from '../../commands/wal-fetch.ts';
import { UsageError } from '../../errors.ts';
import { runParsed } from '../parsed.ts';
import { run } from '../run.ts';

const program = 'wal-fetch';
const words = process.argv.slice(2);

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
      work: async (context) => ((await walFetch(context, { name, path })) === 'delivered' ? 'done' : 'absent'),
    };
  });
}
