/** Is what is written now encrypted, to keys that are usable, and does the identity of this host, if it has one, open it? */
import { type Archive, about } from '../../archive/archive.ts';
import { objectKey, walObjectName } from '../../archive/keys.ts';
import { openWalFile } from '../../archive/wal-archive.ts';
import { collect } from '../../bytes.ts';
import { ageMarkBytes, looksLikeAge } from '../../codec/age.ts';
import type { Identity, Recipient } from '../../codec/age-keys.ts';
import type { Keys } from '../../codec/keys.ts';
import { ObjectNotFound } from '../../errors.ts';
import type { SegmentName } from '../../postgres/wal-file-name.ts';
import { expectRecipients } from '../keys.ts';
import { type Check, type Finding, failed, ok, warning } from './finding.ts';
import type { Subject } from './subject.ts';

export const encryption: Check = {
  name: 'encryption',
  about: 'what is archived is encrypted as set, and the identity of this host opens it',
  async look(subject) {
    const keys = await subject.keys.own();
    return [await lookAt(keys, subject), ...subject.keyWarnings];
  },
};

async function lookAt(keys: Keys, subject: Subject): Promise<Finding> {
  expectRecipients(keys);
  const settings = lookAtKeys(keys);
  if (settings.level === 'failed') return settings;
  const newest = await subject.newestWal.get().catch(() => undefined); // nothing archived yet is for others to tell
  if (newest === undefined) return settings;
  return (await lookAtObject({ ...(await subject.place.get()), keys }, newest.file, subject)) ?? settings;
}

function lookAtKeys({ recipients, manifestRecipients = [], identities }: Keys): Finding {
  if (recipients.length === 0) {
    return ok('encryption is off', { detail: 'whoever can read the storage can read the data' });
  }
  const keyCount = recipients.length === 1 ? 'one key' : `${recipients.length} keys`;
  if (identities.length === 0) {
    return ok(`encrypted to ${keyCount}, none of them on this host`, { detail: 'this host can archive, not restore' });
  }
  if (fitsAny(identities, recipients)) return ok(`encrypted to ${keyCount}; the identity of this host opens it`);
  if (fitsAny(identities, manifestRecipients)) {
    return ok(`encrypted to ${keyCount}; the identity of this host opens manifests, and no data`);
  }
  return failed(
    'the identity of this host fits none of the recipients: what is archived from now on cannot be read here',
    {
      detail: `${recipients.length} recipients, ${identities.length} identities`,
      hint: 'Set WALT_AGE_RECIPIENTS to the public key of the identity in WALT_AGE_IDENTITY_FILE (age-keygen -y shows it), or the identity to that of the recipient.',
    },
  );
}

function fitsAny(identities: readonly Identity[], recipients: readonly Recipient[]): boolean {
  const publicKeys = new Set(recipients.map(({ publicKey }) => Buffer.from(publicKey).toString('hex')));
  return identities.some(({ publicKey }) => publicKeys.has(Buffer.from(publicKey).toString('hex')));
}

/** Undefined when there is nothing to tell. */
async function lookAtObject(
  archive: Archive,
  file: SegmentName,
  { context: { signal } }: Subject,
): Promise<Finding | undefined> {
  const key = objectKey(archive.systemIdentifier, walObjectName(file));
  try {
    const range = { offset: 0, length: ageMarkBytes };
    const { body } = await archive.storage.get(key, { range, signal });
    const isEncrypted = looksLikeAge(await collect(body, ageMarkBytes));
    const { keys } = archive;
    if (keys.recipients.length > 0 && !isEncrypted) {
      return failed('the newest archived WAL is not encrypted, though recipients are set here', {
        detail: `"${key}" in ${archive.storage.url}`,
        hint: 'The archive_command runs with other settings than this command: compare "wal-t config" as the user that PostgreSQL runs as. If encryption was turned on just now, "select pg_switch_wal()" and check again.',
      });
    }
    if (keys.recipients.length === 0 && isEncrypted) {
      return warning('the newest archived WAL is encrypted, though no recipients are set here', {
        detail: `"${key}" in ${archive.storage.url}`,
        hint: 'Set WALT_AGE_RECIPIENTS here as well: what this host stores is in plain.',
      });
    }
    if (fitsAny(keys.identities, keys.recipients) && isEncrypted)
      await (await openWalFile(archive, file, { signal })).close();
    return undefined;
  } catch (error) {
    if (error instanceof ObjectNotFound) return undefined; // deleted since it was listed
    throw about(error, archive, key);
  }
}
