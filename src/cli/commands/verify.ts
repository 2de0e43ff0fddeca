/** wal-t verify: its flags, and one verdict for each base backup. */

import type { KeyGroup } from '../../commands/verify/keys.ts';
import type { Verdict, VerifyResult } from '../../commands/verify.ts';
import { UsageError } from '../../errors.ts';
import { formatBytes } from '../../quantities.ts';
import { listBadPages } from '../bad-pages.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import { longCommand } from '../long-command.ts';
import { print } from '../terminal.ts';

const program = 'verify';

export const addVerify: AddCommand = (parser, setJob) =>
  parser.command(
    `${program} [name]`,
    'check that base backups can be restored',
    (options) =>
      options
        .positional('name', { type: 'string', describe: 'one base backup, or LATEST; by default all of them' })
        .option('all', { type: 'boolean', default: false, describe: 'all base backups of the cluster' })
        .option('deep', { type: 'boolean', default: false, describe: 'read and check every stored byte' })
        .option('json', jsonFlag),
    (args) =>
      setJob(program, args, async (context) => {
        const { name, all, deep } = args;
        if (all && name !== undefined) {
          throw new UsageError('a name and --all exclude each other', { hint: 'Give one of them.' });
        }
        const { isSound, verify } = await import('../../commands/verify.ts');
        const result = await longCommand(program, context, (equipped) => verify(equipped, { name, deep }));
        print(args.json ? formatJson(result) : describeVerify(result));
        return isSound(result) ? 'done' : 'checkFailed';
      }),
  );

function describeVerify({ deep, verdicts, running, isDeleting, wal, keys }: VerifyResult): string {
  const lines = [
    ...verdicts.map((verdict) => describeVerdict(verdict, deep)),
    ...(isDeleting ? ['a deletion is running; or it was broken off, then run it again'] : []),
    ...running.map((id) => `${id}: is being taken`),
    ...(wal === undefined ? [] : [`${wal.objects} WAL files read, ${wal.damaged.length} damaged`]),
    ...(wal?.damaged ?? []).map(({ key, reason }) => `  ${key}: ${reason}`),
    ...describeKeys(keys.unreferenced, 'objects belong to no backup, such as those that a failed one has left'),
    ...describeKeys(keys.unknown, 'objects are not known to WAL-T, and are never touched'),
  ];
  return [...(verdicts.length === 0 ? ['there is no backup that could be restored'] : []), ...lines].join('\n');
}

function describeVerdict({ id, isRestorable, reasons, badPages }: Verdict, deep: boolean): string {
  const verdict = isRestorable
    ? `restorable${deep ? '' : ' (what is stored was not read: --deep does)'}`
    : `not restorable, because ${reasons.join('; ')}`;
  if (badPages.count === 0) return `${id}: ${verdict}`;
  const damage = `  ${badPages.count} pages had a wrong checksum in the cluster itself when they were copied:`;
  return [`${id}: ${verdict}`, damage, ...listBadPages(badPages).map((line) => `  ${line}`)].join('\n');
}

function describeKeys({ count, bytes, named }: KeyGroup, what: string): string[] {
  if (count === 0) return [];
  const more = count > named.length ? [`  and ${count - named.length} more`] : [];
  return [`${count} ${what} (${formatBytes(bytes)}):`, ...named.map((key) => `  ${key}`), ...more];
}
