/** What the AWS SDK reads from the environment by itself: our settings are put where it looks, before it looks. */
import process from 'node:process';
import type { Entries } from '../config.ts';

/** Names that were not in the environment. */
const added = new Set<string>();

export function prepareAwsEnvironment(entries: Entries): void {
  for (const [name, { value }] of Object.entries(entries)) {
    if (name.startsWith('AWS_')) add(name, value);
  }
  // the SDK's notice about Node.js 20 would stand in PostgreSQL's log once for each segment
  add('AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED', 'true');
  // no metadata service of AWS has keys for another endpoint: without keys it must fail at once, not after asking one
  if (entries.AWS_ENDPOINT_URL_S3 !== undefined) add('AWS_EC2_METADATA_DISABLED', 'true');
}

/** As this process got it: a command that is started reads the settings file itself, and which archive they mean hangs on where each stands. */
export function givenEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !added.has(name)));
}

function add(name: string, value: string): void {
  if (process.env[name] !== undefined) return;
  process.env[name] = value;
  added.add(name);
}
