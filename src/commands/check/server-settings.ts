/** Settings of the server as they are in force. */
import type { RunningServer } from './running-server.ts';

export interface ServerSetting {
  readonly value: string;
  /** It was changed, and that takes effect at the next start. */
  readonly isPending: boolean;
}

export type ServerSettings = Readonly<Record<string, ServerSetting | undefined>>;

interface Row {
  readonly name: string;
  readonly value: string;
  readonly pending: boolean;
}

/** In their base units, without one: archive_timeout in seconds. What this version does not know, or the role may not see, is not there. */
export async function readServerSettings(
  { session }: RunningServer,
  names: readonly string[],
): Promise<ServerSettings> {
  const rows = await session.query<Row>('read the settings', question, [names]);
  return Object.fromEntries(rows.map(({ name, value, pending }) => [name, { value, isPending: pending }]));
}

const question = `
  select name, coalesce(setting, '') as value, coalesce(pending_restart, false) as pending
    from pg_settings where name = any($1::text[])`;
