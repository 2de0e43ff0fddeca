/** wal-t keygen: a new age identity in age's own form, or a new authentication key. Nothing is kept but what is returned or written. */
import { randomBytes } from 'node:crypto';
import { bytesOf } from '../bytes.ts';
import { formatRecipient, generateIdentity, parseIdentity } from '../codec/age-text.ts';
import { writeNewFile } from '../durable-file.ts';
import { HostError, systemErrorCode, systemErrorReason } from '../errors.ts';

export interface KeygenArguments {
  /** An authentication key instead of an identity. */
  readonly auth: boolean;
  /** Where to write it; must not exist. */
  readonly output?: string | undefined;
}

export interface KeygenResult {
  /** The file's text: a secret. */
  readonly text: string;
  /** `age1…`, to be set on hosts that push; an authentication key has none. */
  readonly publicKey: string | undefined;
}

export async function keygen({ auth, output }: KeygenArguments): Promise<KeygenResult> {
  const result = auth ? newAuthKey() : newIdentity();
  if (output !== undefined) await writeSecret(output, result.text);
  return result;
}

function newIdentity(): KeygenResult {
  const identity = generateIdentity();
  const publicKey = formatRecipient(parseIdentity(identity));
  return { text: `# created: ${now()}\n# public key: ${publicKey}\n${identity}\n`, publicKey };
}

function newAuthKey(): KeygenResult {
  const text = `# created: ${now()}\n# authentication key of WAL-T: WALT_AUTH_KEY_FILE\n${randomBytes(32).toString('hex')}\n`;
  return { text, publicKey: undefined };
}

async function writeSecret(path: string, text: string): Promise<void> {
  try {
    await writeNewFile(path, bytesOf(Buffer.from(text)), 0o600);
  } catch (cause) {
    const hint = systemErrorCode(cause) === 'EEXIST' ? 'A key is never overwritten: choose another name.' : undefined;
    throw new HostError(`could not write "${path}": ${systemErrorReason(cause)}`, { hint, cause });
  }
}

function now(): string {
  return `${new Date().toISOString().slice(0, 19)}Z`;
}
