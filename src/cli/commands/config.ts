/** wal-t config */
import { describeConfig } from '../../commands/config.ts';
import { type AddCommand, formatJson } from '../command.ts';
import { formatTable, print } from '../terminal.ts';

export const addConfig: AddCommand = (parser, setJob) =>
  parser.command(
    'config',
    'show which settings are in force, and where each comes from',
    (options) => options.option('json', { type: 'boolean', default: false, describe: 'print them as JSON' }),
    (args) =>
      setJob('wal-t', args, async (_context, entries) => {
        const lines = describeConfig(entries);
        const rows = lines.map(({ name, value, source }) => [name, value, source]);
        print(args.json ? formatJson(lines) : formatTable(rows));
        return 'done';
      }),
  );
