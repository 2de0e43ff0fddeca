/** Is there a confirmed backup that is young enough, and did those that were begun since come to their end? By keys alone, so that any host can tell. */
import { kindPrefix, leaseName } from '../../archive/keys.ts';
import { getDocument } from '../../archive/sealed-document.ts';
import { WalTError } from '../../errors.ts';
import { formatDuration } from '../../quantities.ts';
import type { ListedBackup } from '../backups.ts';
import { type Check, type Figures, type Finding, failed, ok, warning } from './finding.ts';
import type { Place, Subject } from './subject.ts';

export const backups: Check = {
  name: 'backups',
  about: 'the newest confirmed backup is young enough, and none has failed since',
  async look(subject) {
    const place = await subject.place.get();
    const all = await subject.backups.own();
    const newest = all.findLast(({ state }) => state === 'confirmed');
    const later = newest === undefined ? all : all.slice(all.indexOf(newest) + 1);
    const running = later.filter(({ state }) => state === 'running');
    const broken = later.filter(({ state }) => state === 'failed' || state === 'unconfirmed');
    const counts = countsOf(all);
    if (newest === undefined) return [none(subject, all, counts), ...(await describeBroken(subject, broken))];
    const ageMs = Math.max(0, Date.now() - newest.startedAt.getTime());
    const figures = {
      ...counts,
      backup_age_seconds: Math.round(ageMs / 1000),
      newest_backup_bytes: await storedBytes(place, newest.id, subject),
    };
    return [judgeAge(subject, { newest, running, ageMs, figures }), ...(await describeBroken(subject, broken))];
  },
};

function countsOf(all: readonly ListedBackup[]): Figures {
  const count = (wanted: ListedBackup['state']) => all.filter(({ state }) => state === wanted).length;
  return {
    backups_confirmed: count('confirmed'),
    backups_unconfirmed: count('unconfirmed'),
    backups_running: count('running'),
    backups_failed: count('failed'),
  };
}

function takeOne({ dataDirectory }: Subject): string {
  return `basebackup-push ${dataDirectory ?? '<data directory>'}`;
}

function none(subject: Subject, all: readonly ListedBackup[], figures: Figures): Finding {
  const running = all.findLast(({ state }) => state === 'running');
  return failed('there is no confirmed backup: nothing can be restored', {
    detail:
      running === undefined
        ? `${all.length === 0 ? 'none was ever begun' : `${all.length} were begun`}`
        : `${running.id} is being taken`,
    hint:
      running === undefined
        ? `Take one: ${takeOne(subject)}`
        : 'Wait until it is confirmed: "backup-list" shows when it is.',
    figures,
  });
}

interface Newest {
  readonly newest: ListedBackup;
  readonly running: readonly ListedBackup[];
  readonly ageMs: number;
  readonly figures: Figures;
}

function judgeAge(subject: Subject, { newest, running, ageMs, figures }: Newest): Finding {
  const { maxBackupAgeMs } = subject.limits;
  const [current] = running;
  const detail = [newest.id, ...(current === undefined ? [] : [`${current.id} is being taken`])].join('; ');
  const message = `the newest confirmed backup was begun ${formatDuration(ageMs)} ago`;
  if (ageMs <= maxBackupAgeMs) return ok(message, { detail, figures });
  return failed(message, {
    detail: `${detail}; it may be ${formatDuration(maxBackupAgeMs)} (--max-backup-age)`,
    hint: `Find out why none was taken since (cron, timer, sidecar), and take one: ${takeOne(subject)}`,
    figures,
  });
}

/** Own objects alone: parts that it needs of others were stored by those. */
async function storedBytes({ storage, systemIdentifier }: Place, id: string, { context }: Subject): Promise<number> {
  let bytes = 0;
  const prefix = `${kindPrefix(systemIdentifier, 'part')}${id}/`;
  for await (const { sizeBytes } of storage.list(prefix, { signal: context.signal })) bytes += sizeBytes;
  return bytes;
}

/** The last of them is told, the others are counted. */
async function describeBroken(subject: Subject, broken: readonly ListedBackup[]): Promise<Finding[]> {
  const last = broken.at(-1);
  if (last === undefined) return [];
  const others = broken.length === 1 ? '' : `, and ${broken.length - 1} more since the newest confirmed one`;
  if (last.state === 'unconfirmed') {
    return [
      warning(`backup ${last.id} was never confirmed${others}`, {
        detail: 'its files were stored, but nobody saw all of its parts and its WAL in the archive',
        hint: 'The log of its basebackup-push says what was missing. "wal-t delete --sweep --confirm" removes what it left.',
      }),
    ];
  }
  return [
    warning(`backup ${last.id} failed${others}`, {
      detail: await reasonOf(subject, last),
      hint: 'Mend what is told, or look at the log of its basebackup-push. "wal-t delete --sweep --confirm" removes what it left.',
    }),
  ];
}

async function reasonOf(subject: Subject, { id, isFailed, isClosed }: ListedBackup): Promise<string> {
  if (isClosed) return 'it was confirmed, but its manifest is gone';
  if (!isFailed) return 'it gave no sign of life any more: its process was killed, or its host lost';
  try {
    const archive = await subject.archive.get();
    const document = await getDocument(archive, { kind: 'lease', name: leaseName(id, 'failed') }, subject.context);
    return String(document.reason);
  } catch (error) {
    subject.context.signal.throwIfAborted();
    if (!(error instanceof WalTError)) return 'why cannot be read on this host';
    return `why cannot be read on this host: ${error.message}`;
  }
}
