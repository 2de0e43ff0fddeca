/** Would the archive still open if this host were lost with all that is on it? */
import { type Check, NotLookedAt, ok, warning } from './finding.ts';

export const keyCopies: Check = {
  name: 'key-copies',
  about: 'this host is not the only one that can open the archive',
  async look(subject) {
    const { recipients, identities } = await subject.keys.get();
    if (recipients.length === 0) throw new NotLookedAt('encryption is off');
    if (identities.length === 0) return ok('no identity is kept on this host');
    const elsewhere = recipients.filter(
      ({ publicKey }) => !identities.some((identity) => Buffer.from(identity.publicKey).equals(Buffer.from(publicKey))),
    );
    if (elsewhere.length > 0) return ok('further identities, which are not on this host, open the archive as well');
    return warning('every identity that opens the archive is on this host', {
      detail: 'if this host is lost, and no copy is kept elsewhere, the archive is lost with it',
      hint: 'Add the public key of an identity that is kept elsewhere to WALT_AGE_RECIPIENTS. If a copy of this one is, leave this check out: --skip key-copies.',
    });
  },
};
