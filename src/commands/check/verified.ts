/** When was the archive last verified, and what was found? `wal-t verify` of all backups leaves a record of it. */
import {
  listVerifications,
  newestOfEach,
  readVerification,
  type Verification,
  type VerificationName,
} from '../../archive/verifications.ts';
import { ObjectNotFound } from '../../errors.ts';
import { deepVerifyMaxAgeMs } from '../../limits.ts';
import { formatDuration } from '../../quantities.ts';
import { type Check, type Figures, type Finding, failed, NotLookedAt, ok, warning } from './finding.ts';
import { withoutKey } from './newest-manifest.ts';
import type { Subject } from './subject.ts';

export const verified: Check = {
  name: 'verified',
  about: 'all backups were verified, to the last byte not long ago, and could be restored',
  async look(subject) {
    const names = await listVerifications(await subject.listed(), { signal: subject.context.signal });
    const newest = newestOfEach(names);
    if (newest.length === 0) {
      return warning('the archive was never verified', {
        hint: 'Run "wal-t verify --deep" once a month, and "wal-t verify" each day: by cron, a timer or the sidecar.',
      });
    }
    return [judgeAge(newest), ...(await verdicts(subject, newest))];
  },
};

function judgeAge(newest: readonly VerificationName[]): Finding {
  const ageOf = (wanted: boolean): number | undefined => {
    const found = newest.find(({ deep }) => deep === wanted);
    return found === undefined ? undefined : Math.max(0, Date.now() - found.at.getTime());
  };
  const [deepMs, shallowMs] = [ageOf(true), ageOf(false)];
  const figures: Figures = {
    verified_age_seconds: Math.round(Math.min(deepMs ?? Infinity, shallowMs ?? Infinity) / 1000),
    ...(deepMs === undefined ? {} : { verified_deep_age_seconds: Math.round(deepMs / 1000) }),
  };
  const hint = 'Run "wal-t verify --deep": it reads every stored byte.';
  if (deepMs === undefined) return warning('what is stored was never read to the last byte', { hint, figures });
  const message = `every stored byte was last read ${formatDuration(deepMs)} ago`;
  const detail = shallowMs === undefined ? undefined : `and all was last counted ${formatDuration(shallowMs)} ago`;
  if (deepMs <= deepVerifyMaxAgeMs) return ok(message, { detail, figures });
  return warning(message, { detail, hint, figures });
}

/** What a shallow look finds sound a deep one may have found damaged, so both count; of backups that are gone by now neither does. */
async function verdicts(subject: Subject, newest: readonly VerificationName[]): Promise<Finding[]> {
  const stored = await subject.backups.get().catch(() => undefined);
  const isThere = (id: string) => stored === undefined || stored.some((one) => one.id === id);
  for (const record of newest) {
    try {
      const found = await readVerification(await subject.archive.get(), record, { signal: subject.context.signal });
      const finding = judge(record, found, isThere);
      if (finding !== undefined) return [finding];
    } catch (error) {
      if (error instanceof ObjectNotFound) continue; // a deletion took it: there is a newer one
      const reason = withoutKey(error);
      if (!(reason instanceof NotLookedAt)) throw reason;
      return [{ level: 'skipped', message: 'what was found cannot be read on this host', detail: reason.message }];
    }
  }
  return [];
}

function judge(
  { at, deep }: VerificationName,
  { backups, wal }: Verification,
  isThere: (id: string) => boolean,
): Finding | undefined {
  const when = `${deep ? '"wal-t verify --deep"' : '"wal-t verify"'} of ${at.toISOString()}`;
  const bad = backups.filter(({ id, isRestorable }) => !isRestorable && isThere(id));
  const [first] = bad;
  if (first !== undefined) {
    const others = bad.length === 1 ? '' : `, nor can ${bad.length - 1} more`;
    return failed(`backup ${first.id} cannot be restored${others}`, {
      detail: `${first.reason ?? 'no reason was told'}; found by ${when}`,
      hint: 'Take a new backup (basebackup-push), bring back what is missing, and run "wal-t verify" again.',
    });
  }
  if (wal === undefined || wal.damaged === 0) return undefined;
  return failed(wal.damaged === 1 ? 'a WAL file is damaged' : `${wal.damaged} WAL files are damaged`, {
    detail: `${wal.named[0] ?? ''}; found by ${when}`,
    hint: 'No restore gets past it. Bring it back from another copy of the repository, or take a new backup now (basebackup-push).',
  });
}
