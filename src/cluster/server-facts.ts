/** What a running server says about itself, before a base backup begins. */
import { isAbsolute, relative } from 'node:path/posix';
import { PostgresError } from '../errors.ts';
import type { Session } from './connection.ts';

export interface ServerFacts {
  /** As the server says it: `17.10`. */
  readonly version: string;
  /** `server_version_num`: 170010. */
  readonly versionNumber: number;
  readonly major: number;
  readonly inRecovery: boolean;
  readonly systemIdentifier: string;
  /** That WAL is written on; of a standby, the last restartpoint's, which its next backup starts on. */
  readonly timeline: number;
  readonly segmentSizeBytes: number;
  readonly pageSizeBytes: number;
  readonly catalogVersion: number;
  readonly checksums: boolean;
  readonly archiveMode: 'on' | 'off' | 'always';
  readonly archiveCommand: string;
  readonly archiveLibrary: string;
  /** False before PostgreSQL 17. */
  readonly summarizeWal: boolean;
  /** `data_directory`: as the server calls it, which in a container may be another name. */
  readonly dataDirectory: string;
  readonly startedAt: Date;
  /** Absolute paths of the configuration files that lie outside `dataDirectory`: those in force, and those they include. */
  readonly configFiles: readonly string[];
}

interface Row {
  readonly version: string;
  readonly version_number: number;
  readonly in_recovery: boolean;
  readonly system_identifier: string;
  readonly timeline: number;
  readonly segment_size: number;
  readonly page_size: number;
  readonly catalog_version: number;
  readonly checksums: boolean;
  readonly archive_mode: ServerFacts['archiveMode'];
  readonly archive_command: string;
  readonly archive_library: string;
  readonly summarize_wal: boolean;
  readonly data_directory: string;
  readonly started_at: number;
  readonly config_files: readonly string[];
}

// after a promotion the last checkpoint still has the old timeline for a while; the name of the running segment has the new one
const question = `
  select current_setting('server_version') as version,
         current_setting('server_version_num')::int as version_number,
         recovery.is_on as in_recovery,
         system.system_identifier::text as system_identifier,
         case when recovery.is_on then checkpoint.timeline_id
              else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int end as timeline,
         init.bytes_per_wal_segment as segment_size,
         init.database_block_size as page_size,
         system.catalog_version_no as catalog_version,
         init.data_page_checksum_version > 0 as checksums,
         current_setting('archive_mode') as archive_mode,
         current_setting('archive_command') as archive_command,
         coalesce(current_setting('archive_library', true), '') as archive_library,
         coalesce(current_setting('summarize_wal', true), 'off') = 'on' as summarize_wal,
         current_setting('data_directory') as data_directory,
         extract(epoch from pg_postmaster_start_time())::float8 as started_at,
         (select coalesce(array_agg(distinct path order by path), '{}')
            from (select setting from pg_settings where name in ('config_file', 'hba_file', 'ident_file')
                  union select sourcefile from pg_settings) as named(path)
           where path is not null and path <> '') as config_files
    from pg_control_system() as system, pg_control_checkpoint() as checkpoint, pg_control_init() as init,
         (select pg_is_in_recovery() as is_on) as recovery`;

/** The role must be a member of pg_read_all_settings. @throws PostgresError */
export async function readFacts(session: Session): Promise<ServerFacts> {
  const [row] = await session.query<Row>('ask the server about itself', question);
  if (row === undefined) throw new PostgresError('the server does not say what it is');
  const isOutside = (path: string): boolean => {
    const within = relative(row.data_directory, path);
    return isAbsolute(path) && (within === '..' || within.startsWith('../'));
  };
  return {
    version: row.version.split(' ')[0] ?? '', // Debian adds the name of its package
    versionNumber: row.version_number,
    major: Math.floor(row.version_number / 10_000),
    inRecovery: row.in_recovery,
    systemIdentifier: row.system_identifier,
    timeline: row.timeline,
    segmentSizeBytes: row.segment_size,
    pageSizeBytes: row.page_size,
    catalogVersion: row.catalog_version,
    checksums: row.checksums,
    archiveMode: row.archive_mode,
    archiveCommand: row.archive_command,
    archiveLibrary: row.archive_library,
    summarizeWal: row.summarize_wal,
    dataDirectory: row.data_directory,
    startedAt: new Date(row.started_at * 1000),
    configFiles: row.config_files.filter(isOutside),
  };
}
