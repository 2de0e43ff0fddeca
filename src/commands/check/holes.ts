/** From the newest backup on, is WAL stored without a hole, and the history of each timeline? Where manifests can be read, of older backups too. */
import { ConfigurationError, WrongKeyError } from '../../errors.ts';
import { formatHistoryName } from '../../postgres/wal-file-name.ts';
import type { Choice } from '../restore/choice.ts';
import { type Check, type Finding, failed, NotLookedAt } from './finding.ts';
import { holesByManifests } from './holes-by-manifests.ts';
import { holesByNames } from './holes-by-names.ts';
import type { Subject } from './subject.ts';
import type { WalNames } from './wal-names.ts';

export const holes: Check = {
  name: 'holes',
  about: 'from the newest backup on no WAL is missing, nor the history of any timeline',
  async look(subject) {
    const names = await subject.walNames.get();
    const { newest } = names;
    if (newest === undefined) throw new NotLookedAt('no WAL is archived');
    const choice = await choiceOf(subject);
    const found =
      choice === undefined
        ? await holesByNames(subject, names, newest)
        : [...(await holesByManifests(subject, choice, newest)), ...subject.manifestWarnings];
    return [...found, ...missingHistories(names)];
  },
};

/** Undefined where this host has no key to manifests and histories; whether it should have one is the matter of `encryption`. */
async function choiceOf(subject: Subject): Promise<Choice | undefined> {
  try {
    return await subject.stored.own();
  } catch (error) {
    if (error instanceof ConfigurationError || error instanceof WrongKeyError) return undefined;
    throw error;
  }
}

/** PostgreSQL archives a timeline's history before its first segment. */
function missingHistories({ timelines, histories }: WalNames): Finding[] {
  const missing = [...timelines].filter((timeline) => timeline > 1 && !histories.has(timeline)).sort((a, b) => a - b);
  return missing.map((timeline) =>
    failed(`"${formatHistoryName(timeline)}" is missing, and WAL of timeline ${timeline} is there`, {
      detail: 'without it no restore finds the way to that timeline',
      hint: `Push it from a pg_wal that has it: wal-push pg_wal/${formatHistoryName(timeline)}`,
    }),
  );
}
