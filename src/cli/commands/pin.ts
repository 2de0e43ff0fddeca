/** wal-t pin, wal-t unpin */
import type { PinResult } from '../../commands/pin.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import { print } from '../terminal.ts';

export const addPin: AddCommand = (parser, setJob) =>
  parser.command(
    'pin <name>',
    'keep a base backup, whatever the policy says',
    (options) =>
      options
        .positional('name', { type: 'string', demandOption: true, describe: 'which base backup, or LATEST' })
        .option('until', { type: 'string', requiresArg: true, describe: 'a date or a time; for ever without it' })
        .option('json', jsonFlag),
    (args) =>
      setJob('pin', args, async (context) => {
        const { pin } = await import('../../commands/pin.ts');
        const result = await pin(context, args);
        print(args.json ? formatJson(result) : describePin(result));
        return 'done';
      }),
  );

export const addUnpin: AddCommand = (parser, setJob) =>
  parser.command(
    'unpin <name>',
    'leave a base backup to the policy again',
    (options) =>
      options
        .positional('name', { type: 'string', demandOption: true, describe: 'which base backup, or LATEST' })
        .option('json', jsonFlag),
    (args) =>
      setJob('unpin', args, async (context) => {
        const { unpin } = await import('../../commands/pin.ts');
        const result = await unpin(context, args);
        print(args.json ? formatJson(result) : describePin(result));
        return 'done';
      }),
  );

function describePin({ backup, until }: PinResult): string {
  if (until === 'no longer') return `${backup} is no longer pinned`;
  return `${backup} is pinned ${until instanceof Date ? `until ${until.toISOString()}` : until}`;
}
