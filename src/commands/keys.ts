/** The keys that the settings name, read from this host's files. Without such a setting nothing of it is loaded. */
import { readFile, stat } from 'node:fs/promises';
import type { Identity, Recipient } from '../codec/age-keys.ts';
import { type Keys, noKeys } from '../codec/keys.ts';
import { ConfigurationError, systemErrorReason } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Log } from '../log.ts';
import type { Context } from './context.ts';

/** For commands that write. @throws ConfigurationError also when there is an identity, or who may read manifests, but nobody to encrypt to. */
export async function keysToSeal(context: Context): Promise<Keys> {
  const keys = await loadKeys(context);
  expectRecipients(keys);
  return keys;
}

/** @throws ConfigurationError when there is an identity, or who may read manifests, but nobody to encrypt to. */
export function expectRecipients(keys: Keys): void {
  if (keys.manifestRecipients !== undefined && keys.recipients.length === 0) {
    throw new ConfigurationError('WALT_AGE_MANIFEST_RECIPIENTS is set, but no recipient: nothing would be encrypted', {
      hint: 'Set WALT_AGE_RECIPIENTS to the keys that may read everything, or remove WALT_AGE_MANIFEST_RECIPIENTS.',
    });
  }
  if (keys.identities.length > 0 && keys.recipients.length === 0) {
    throw new ConfigurationError('an age identity is set, but no recipient: nothing would be encrypted', {
      hint: 'Set WALT_AGE_RECIPIENTS to its public key (age1…): "wal-t keygen" prints it, age-keygen -y shows it.',
    });
  }
}

/** @throws ConfigurationError when a file cannot be read, holds no key, or one that is malformed: never fewer keys than are set. */
export async function loadKeys({ settings, log }: Context): Promise<Keys> {
  const { readPlaintext, ...set } = settings.encryption;
  if (Object.values(set).every((value) => value === undefined)) return { ...noKeys, readPlaintext };
  const { recipients, recipientsFile, manifestRecipients, identity, identityFiles, authKeyFile } = set;
  const all = [
    ...(await parseAll('WALT_AGE_RECIPIENTS', wordsOf(recipients), recipient)),
    ...(await readAll('WALT_AGE_RECIPIENTS_FILE', recipientsFile, recipient)),
  ];
  const further = await parseAll('WALT_AGE_MANIFEST_RECIPIENTS', wordsOf(manifestRecipients), recipient);
  expectNotTooMany(all.length + further.length); // a manifest is for both
  return {
    recipients: all,
    ...(manifestRecipients === undefined ? {} : { manifestRecipients: further }),
    identities: [
      ...(await parseAll('WALT_AGE_IDENTITY', wordsOf(identity), identityKey)),
      ...(await readAll('WALT_AGE_IDENTITY_FILE', identityFiles, identityKey, log)),
    ],
    authKey: authKeyFile === undefined ? undefined : await readAuthKey(authKeyFile, log),
    readPlaintext,
  };
}

/** Beyond it an object could be pushed, but not be told from another when it is pushed again. */
function expectNotTooMany(recipients: number): void {
  if (recipients <= limits.recipients) return;
  throw new ConfigurationError(`there are ${recipients} age recipients`, {
    hint: `At most ${limits.recipients} can be encrypted to.`,
  });
}

async function recipient(text: string): Promise<Recipient> {
  return (await import('../codec/age-text.ts')).parseRecipient(text);
}

async function identityKey(text: string): Promise<Identity> {
  return (await import('../codec/age-text.ts')).parseIdentity(text);
}

/** Every text as a key. An empty setting is none; one without a single key is a mistake. */
async function parseAll<Key>(
  setting: string,
  texts: readonly string[] | undefined,
  parse: (text: string) => Promise<Key>,
): Promise<Key[]> {
  if (texts === undefined) return [];
  if (texts.length === 0) throw new ConfigurationError(`${setting} holds no key`);
  const keys: Key[] = [];
  for (const [index, text] of texts.entries()) {
    keys.push(
      await parse(text).catch((error: unknown) => {
        if (!(error instanceof ConfigurationError)) throw error;
        throw new ConfigurationError(`${setting}: ${error.message}`, {
          detail: `key ${index + 1}`,
          hint: error.hint,
          cause: error,
        });
      }),
    );
  }
  return keys;
}

/** Keys from files, one a line; `#` begins a comment. */
async function readAll<Key>(
  setting: string,
  paths: string | undefined,
  parse: (text: string) => Promise<Key>,
  secretFor?: Log,
): Promise<Key[]> {
  const keys: Key[] = [];
  for (const path of paths?.split(',') ?? []) {
    const lines = await readLines(setting, path.trim(), secretFor);
    keys.push(...(await parseAll(`${setting} "${path.trim()}"`, lines, parse)));
  }
  return keys;
}

async function readAuthKey(path: string, log: Log): Promise<Uint8Array> {
  const [line, ...others] = await readLines('WALT_AUTH_KEY_FILE', path, log);
  if (line === undefined || others.length > 0 || !/^[0-9a-f]{64}$/i.test(line)) {
    throw new ConfigurationError(`WALT_AUTH_KEY_FILE "${path}" holds no authentication key`, {
      hint: 'It is one line of 64 hexadecimal digits: "wal-t keygen --auth" makes it.',
    });
  }
  return Buffer.from(line, 'hex');
}

async function readLines(setting: string, path: string, secretFor: Log | undefined): Promise<string[]> {
  try {
    const text = await readFile(path, 'utf8');
    if (secretFor !== undefined && (await isOpenToOthers(path))) {
      secretFor.warning(`"${path}" can be read by others than its owner`, {
        hint: `Keep the secret: chmod 600 ${path}`,
      });
    }
    const lines = text.split('\n').map((line) => line.trim());
    return lines.filter((line) => line !== '' && !line.startsWith('#'));
  } catch (cause) {
    throw new ConfigurationError(`could not read ${setting} "${path}": ${systemErrorReason(cause)}`, {
      hint: 'The user that PostgreSQL runs as must be able to read it.',
      cause,
    });
  }
}

/** As PostgreSQL judges its own keys: a file of root may be readable by a group. */
async function isOpenToOthers(path: string): Promise<boolean> {
  const { mode, uid } = await stat(path);
  return (mode & (uid === 0 ? 0o037 : 0o077)) !== 0;
}

function wordsOf(text: string | undefined): string[] | undefined {
  return text?.split(/[\s,]+/).filter((word) => word !== '');
}
