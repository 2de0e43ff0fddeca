/** backup-list: its flags, and its table. */
import type { BackupList, BackupRow } from '../../commands/backup-list.ts';
import { formatBytes } from '../../quantities.ts';
import { describeBadPage } from '../bad-pages.ts';
import { type AddCommand, formatJson, jsonFlag } from '../command.ts';
import { formatTable, print } from '../terminal.ts';

export const addBackupList: AddCommand = (parser, setJob) =>
  parser.command(
    'backup-list',
    'list the base backups, the oldest first',
    (options) =>
      options
        .option('window', {
          type: 'boolean',
          default: true,
          describe: 'show how far each leads; --no-window does not read WAL',
        })
        .option('json', jsonFlag),
    (args) =>
      setJob('backup-list', args, async (context) => {
        const { backupList } = await import('../../commands/backup-list.ts');
        const result = await backupList(context, args);
        print(args.json ? formatJson(result.backups) : describeBackupList(result));
        return 'done';
      }),
  );

/** The names of the first three columns are those that scripts for WAL-G look for. */
const columns = [
  'backup_name',
  'modified',
  'wal_file_name',
  'type',
  'state',
  'timeline',
  'start_lsn',
  'stop_lsn',
  'until',
  'raw',
  'stored',
  'used',
  'parent',
  'version',
  'notes',
];

function describeBackupList({ systemIdentifier, backups }: BackupList): string {
  if (backups.length === 0) return `no base backup of system ${systemIdentifier} was ever begun`;
  return formatTable([columns, ...backups.map(rowOf)]);
}

function rowOf(row: BackupRow): string[] {
  const { raw_bytes: raw, stored_bytes: stored, used_bytes: used } = row;
  return [
    row.backup_name,
    row.modified.replace(/\.\d+Z$/, 'Z'),
    row.wal_file_name,
    row.type,
    row.state,
    String(row.timeline),
    row.start_lsn ?? '-',
    row.stop_lsn ?? '-',
    untilOf(row),
    raw === undefined ? '-' : formatBytes(raw),
    stored === undefined ? '-' : formatBytes(stored),
    used === undefined ? '-' : formatBytes(used),
    row.parent ?? '-',
    row.postgres_version ?? '-',
    notesOf(row).join('; ') || '-',
  ];
}

/** The last moment that the backup leads to. */
function untilOf({ window_until: until, window_until_lsn: lsn, window_hole: hole }: BackupRow): string {
  const last = until?.replace(/\.\d+Z$/, 'Z') ?? lsn ?? '-';
  return hole === undefined ? last : `${last} (hole)`;
}

function notesOf({ problem, bad_pages: pages = [], from_standby: standby, annotations, ...row }: BackupRow): string[] {
  const [first] = pages.map(describeBadPage);
  const failures = row.checksum_failures ?? 0;
  const example = first === undefined ? '' : `: ${first}${failures > 1 ? ' …' : ''}`;
  return [
    ...(problem === undefined ? [] : [problem]),
    ...(failures === 0 ? [] : [`${failures} ${failures === 1 ? 'page' : 'pages'} with a wrong checksum${example}`]),
    ...(standby === true ? ['from a standby'] : []),
    ...Object.entries(annotations ?? {}).map(([key, value]) => `${key}=${value}`),
  ];
}
