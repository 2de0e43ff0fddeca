/** basebackup-fetch: its flags, and what is printed of its result. */
import type { BasebackupFetchResult } from '../../commands/basebackup-fetch.ts';
import { formatDuration } from '../../quantities.ts';
import { parseTablespaceMapping } from '../arguments.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import { restoringCommand } from '../long-command.ts';
import { amounts, deltaFlag, dirDescription, oldWalLines } from '../restored.ts';
import { print } from '../terminal.ts';

const program = 'basebackup-fetch';

export const addBasebackupFetch: AddCommand = (parser, setJob) =>
  parser.command(
    [`${program} <dir> [name]`, 'backup-fetch'],
    "restore a base backup's files",
    (options) =>
      options
        .positional('dir', { type: 'string', demandOption: true, describe: dirDescription })
        .positional('name', { type: 'string', default: 'LATEST', describe: 'which base backup' })
        .option('tablespace-mapping', {
          alias: 'T',
          type: 'string',
          array: true,
          nargs: 1,
          default: [] as string[],
          defaultDescription: 'none',
          describe: 'OLD=NEW: where the content of a tablespace goes; may be given again',
        })
        .option('resume', { type: 'boolean', default: false, describe: 'go on with one that was interrupted' })
        .option('delta', deltaFlag)
        .option('json', jsonFlag),
    (args) => {
      // not by yargs' coerce, which keeps an error's message and loses its hint
      const tablespaceMapping = parseTablespaceMapping(args.tablespaceMapping);
      setJob(program, args, async (context) => {
        const { dir, name, resume, delta } = args;
        const choices = { dir, name, tablespaceMapping, resume, delta };
        const { basebackupFetch } = await import('../../commands/basebackup-fetch.ts');
        const result = await restoringCommand(program, context, (equipped) => basebackupFetch(equipped, choices));
        print(args.json ? formatJson(result) : describeBasebackupFetch(result));
        return 'done';
      });
    },
  );

function describeBasebackupFetch(result: BasebackupFetchResult): string {
  const { manifest, folder, seconds } = result;
  return [
    `fetched base backup ${manifest.id} into "${folder}" in ${formatDuration(seconds * 1000)}: ${amounts(result)}`,
    ...oldWalLines(result),
  ].join('\n');
}
