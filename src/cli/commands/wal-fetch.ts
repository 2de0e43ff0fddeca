/** wal-fetch with flags of every kind and place; those that `restore` writes in front need no parser: see main/wal-fetch.ts. */
import { walFetch } from '../../commands/wal-fetch.ts';
import type { AddCommand } from '../command.ts';

export const addWalFetch: AddCommand = (parser, setJob) =>
  parser.command(
    'wal-fetch <name> <path>',
    "restore_command = '… wal-fetch %f %p'",
    (options) =>
      options
        .positional('name', { type: 'string', demandOption: true, describe: '%f: the file that is wanted' })
        .positional('path', { type: 'string', demandOption: true, describe: '%p: where to put it' })
        .option('timeline', { type: 'string', requiresArg: true, describe: 'the timeline that is recovered along' })
        .option('end-at', { type: 'string', requiresArg: true, describe: 'end before this segment: there is a hole' })
        .option('beside', {
          type: 'boolean',
          default: false,
          describe: 'stop before a tablespace is made where there is one on this host',
        })
        .epilogue(
          'Exit codes: 0 delivered; 1 the proved end of the WAL; 200 any failure, under standby.signal its own',
        ),
    (args) =>
      setJob('wal-fetch', args, async (context) => ((await walFetch(context, args)) === 'absent' ? 'absent' : 'done')),
  );
