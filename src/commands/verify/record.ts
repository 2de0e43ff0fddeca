/** Leaves in the archive what a verification of all backups found, for `wal-t check` on whichever host. */
import type { Archive } from '../../archive/archive.ts';
import { storeVerification } from '../../archive/verifications.ts';
import { WalTError } from '../../errors.ts';
import type { Context } from '../context.ts';
import { expectRecipients } from '../keys.ts';
import type { VerifyResult } from '../verify.ts';

/** Never fails: whoever verifies may be somebody who may not write. */
export async function recordVerification(
  { host, signal, log }: Context,
  archive: Archive,
  { deep, verdicts, wal }: VerifyResult,
): Promise<void> {
  const found = {
    backups: verdicts.map(({ id, isRestorable, reasons: [reason] }) => ({ id, isRestorable, reason })),
    wal:
      wal === undefined
        ? undefined
        : { objects: wal.objects, damaged: wal.damaged.length, named: wal.damaged.map(({ key }) => key) },
  };
  try {
    expectRecipients(archive.keys); // it is not to be the one plain object of an encrypted archive
    await storeVerification(archive, { at: new Date(), deep, found }, { host, signal });
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof WalTError)) throw error;
    log.info('this verification is not recorded in the archive, where "wal-t check" would find it', {
      detail: error.message,
    });
  }
}
