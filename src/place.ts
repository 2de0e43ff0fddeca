/**
 * Which archive the settings mean, as they were given. What was done ahead of PostgreSQL counts only under the very same ones, and the
 * launchers, which read no settings, compare them with builtins: bin/ahead.sh makes the same text.
 */

/** In the order of bin/ahead.sh. None holds a secret. */
const variables = [
  'WALT_CONFIG',
  'WALT_REPO',
  'WALT_PGDATA',
  'WALT_SYSTEM_IDENTIFIER',
  'WALT_AGE_RECIPIENTS_FILE',
  'WALT_AUTH_KEY_FILE',
  'WALT_S3_FORCE_PATH_STYLE',
  'WALG_FILE_PREFIX',
  'WALG_S3_PREFIX',
  'AWS_ENDPOINT_URL_S3',
  'AWS_ENDPOINT_URL',
  'AWS_ENDPOINT',
  'AWS_REGION',
  'AWS_DEFAULT_REGION',
  'AWS_PROFILE',
  'AWS_CONFIG_FILE',
  'AWS_SHARED_CREDENTIALS_FILE',
  'AWS_ACCESS_KEY_ID',
  'AWS_S3_FORCE_PATH_STYLE',
  'HOME',
] as const;

/** The lines of the settings file that say the same; a comment among them does no harm. */
const inFile =
  /WALT_REPO|WALT_PGDATA|WALT_SYSTEM_IDENTIFIER|WALT_AGE_RECIPIENTS_FILE|WALT_AUTH_KEY_FILE|PREFIX|ENDPOINT|REGION|PROFILE|CONFIG_FILE|CREDENTIALS_FILE|AWS_ACCESS_KEY_ID|FORCE_PATH_STYLE/;

/** One line for each variable, empty where it is not set; then those of the file. */
export function placeOf(
  environment: Readonly<Record<string, string | undefined>>,
  file: { readonly text: string } | undefined,
): string {
  const lines = variables.map((name) => environment[name] ?? '');
  const ofFile = file?.text.split('\n').filter((line) => inFile.test(line)) ?? [];
  return [...lines, ...ofFile].map((line) => `${line}\n`).join('');
}
