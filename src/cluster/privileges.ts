/** What the role of a base backup may do, and the exact GRANTs that it lacks. */
import { PostgresError } from '../errors.ts';
import type { Session } from './connection.ts';

/** Functions that a hardened server may have taken from PUBLIC stand beside those that it never had. */
const functions: readonly { readonly signature: string; readonly onlyPrimary?: true }[] = [
  { signature: 'pg_backup_start(text, boolean)' },
  { signature: 'pg_backup_stop(boolean)' },
  { signature: 'pg_switch_wal()', onlyPrimary: true },
  { signature: 'pg_control_system()' },
  { signature: 'pg_control_checkpoint()' },
  { signature: 'pg_control_init()' },
  { signature: 'pg_export_snapshot()' },
];

interface Found {
  readonly role: string;
  readonly database: string;
  readonly reads_settings: boolean;
  readonly lacking: readonly string[];
}

const question = `
  select format('%I', current_user) as role,
         current_database() as database,
         pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') as reads_settings,
         coalesce((select array_agg(signature order by place)
                     from unnest($1::text[]) with ordinality as wanted(signature, place)
                    where not has_function_privilege(current_user, 'pg_catalog.' || signature, 'EXECUTE')), '{}') as lacking`;

/** @throws PostgresError, whose hint holds the missing GRANTs, when the session's role may not do all that a backup needs. */
export async function checkPrivileges(
  session: Session,
  { major, inRecovery }: { readonly major: number; readonly inRecovery: boolean },
): Promise<void> {
  const wanted = functions.filter(({ onlyPrimary }) => onlyPrimary === undefined || !inRecovery);
  const signatures = wanted.map(({ signature }) => signature);
  const [found] = await session.query<Found>('look at the privileges of the role', question, [signatures]);
  if (found === undefined || (found.reads_settings && found.lacking.length === 0)) return;
  const where = inRecovery ? ' of the primary' : '';
  throw new PostgresError(`role ${found.role} may not take a base backup`, {
    detail: `It lacks ${[...found.lacking, ...(found.reads_settings ? [] : ['pg_read_all_settings'])].join(', ')}.`,
    hint: `As a superuser, in database "${found.database}"${where} (privileges on functions are of one database): ${grants(found, major).join(' ')}`,
  });
}

function grants({ role, lacking, reads_settings }: Found, major: number): readonly string[] {
  const onFunctions = lacking.map((signature) => `GRANT EXECUTE ON FUNCTION pg_catalog.${signature} TO ${role};`);
  if (reads_settings) return onFunctions;
  // a role that is NOINHERIT would otherwise have to SET ROLE first
  const onSettings =
    major >= 16
      ? [`GRANT pg_read_all_settings TO ${role} WITH INHERIT TRUE;`]
      : [`GRANT pg_read_all_settings TO ${role};`, `ALTER ROLE ${role} INHERIT;`];
  return [...onFunctions, ...onSettings];
}
