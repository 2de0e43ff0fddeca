/** wal-t keygen */
import { keygen } from '../../commands/keygen.ts';
import type { AddCommand } from '../command.ts';
import { print } from '../terminal.ts';

export const addKeygen: AddCommand = (parser, setJob) =>
  parser.command(
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
    (args) =>
      setJob('wal-t', args, async (context) => {
        const { text, publicKey } = await keygen(args);
        if (args.output === undefined) print(text.trimEnd());
        else if (publicKey !== undefined) context.log.info(`public key: ${publicKey}`);
        return 'done';
      }),
  );
