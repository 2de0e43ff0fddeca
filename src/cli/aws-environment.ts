/** What the AWS SDK reads from the environment by itself: our settings are put where it looks, before it looks. */
import process from 'node:process';
import type { Entries } from '../config.ts';

export function prepareAwsEnvironment(entries: Entries): void {
  for (const [name, { value }] of Object.entries(entries)) {
    if (name.startsWith('AWS_')) process.env[name] ??= value;
  }
  // the SDK's notice about Node.js 20 would stand in PostgreSQL's log once for each segment
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
  // no metadata service of AWS has keys for another endpoint: without keys it must fail at once, not after asking one
  if (entries.AWS_ENDPOINT_URL_S3 !== undefined) process.env.AWS_EC2_METADATA_DISABLED ??= 'true';
}
