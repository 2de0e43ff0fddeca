/** wal-t init */
import { init } from '../../commands/init.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import { describeInit } from '../init-advice.ts';
import { print } from '../terminal.ts';

export const addInit: AddCommand = (parser, setJob) =>
  parser.command(
    'init',
    'make the repository, once, and say what to write into postgresql.conf',
    (options) =>
      options
        .option('adopt', {
          type: 'boolean',
          default: false,
          describe: 'archive the cluster in WALT_PGDATA here from now on',
        })
        .option('json', jsonFlag),
    (args) =>
      setJob('wal-t', args, async (context, entries) => {
        const result = await init(context, args);
        print(args.json ? formatJson(result) : describeInit(result, entries));
        return 'done';
      }),
  );
