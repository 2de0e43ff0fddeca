/** Holes in the archived WAL as the windows of a restore see them: along the way of the timeline that WAL is archived to now. */
import type { BackupManifest } from '../../archive/manifest.ts';
import { nameAt, readStoredWal, type StoredWal } from '../../archive/stored-wal.ts';
import { type Chain, describeHole, followWay, type Hole, isOnWay, type Leg, wayTo } from '../../archive/window.ts';
import { CorruptError } from '../../errors.ts';
import type { Lsn } from '../../postgres/lsn.ts';
import { formatHistoryName } from '../../postgres/wal-file-name.ts';
import type { Choice } from '../restore/choice.ts';
import { type Figures, type Finding, failed, ok, warning } from './finding.ts';
import { settled } from './on-its-way.ts';
import type { Subject } from './subject.ts';
import type { NewestWal } from './wal-names.ts';

export async function holesByManifests(subject: Subject, choice: Choice, newest: NewestWal): Promise<Finding[]> {
  const { timeline } = newest.file;
  const way = wayTo(choice.wal, timeline);
  if (way === undefined) return unreadableHistory(choice.wal, timeline);
  if (choice.backups.length === 0) return [{ level: 'skipped', message: 'there is no confirmed backup' }];
  const onWay = choice.backups.filter((one) => isOnWay(way, one.timeline, one.consistentLsn));
  const last = onWay.at(-1);
  if (last === undefined) return [noneLeadsTo(timeline)];
  const { chain, wal } = await settled(subject, newest, async (again) => {
    const { segmentSizeBytes } = choice.wal;
    const options = { signal: subject.context.signal, segmentSizeBytes };
    const found = again ? await readStoredWal(await subject.archive.get(), options) : undefined;
    const wal = found ?? choice.wal;
    const followed = followWay(wal, way, last.startLsn);
    return { chain: followed, wal, hole: followed.hole };
  });
  const older = olderHoles(wal, way, onWay);
  const figures = await reach(choice, { onWay, older, chain });
  const incomplete = chain.hole !== undefined || chain.endLsn < last.consistentLsn;
  const about = incomplete
    ? behindNewest(last.id, chain.hole?.missing ?? nameAt(wal, timeline, chain.endLsn), chain.hole)
    : ok(`WAL is there without a hole from the newest backup on, to ${newest.file.name}`, { detail: last.id });
  return [{ ...about, figures }, ...lostBehindOlder(onWay, older)];
}

/** What is missing altogether `missingHistories` tells. */
function unreadableHistory({ unreadable }: StoredWal, timeline: number): Finding[] {
  const error = unreadable.get(formatHistoryName(timeline));
  return error === undefined ? [] : [failed(error.message, { detail: error.detail, hint: error.hint })];
}

function noneLeadsTo(timeline: number): Finding {
  return failed(`no confirmed backup leads to timeline ${timeline}, to which WAL is archived now`, {
    detail: 'what is written there cannot be restored',
    hint: 'Take a backup now: basebackup-push.',
  });
}

export function behindNewest(id: string, missing: string, hole: Hole | undefined): Finding {
  const what = hole === undefined ? `"${missing}" is missing` : describeHole(hole);
  return failed(`WAL has a hole behind the newest backup: ${what}`, {
    detail: `from ${id} a restore gets to that place, and no further`,
    hint: `Push it, if a pg_wal still has it: wal-push pg_wal/${missing}. Else take a new backup now (basebackup-push): what lies between is lost.`,
  });
}

/** A hole that is not of the newest backup. */
interface OlderHole extends Hole {
  readonly missingLsn: Lsn;
}

/** No archive has more that somebody would read about. */
const holesAtMost = 1000;

/** All holes before the newest backup's start, in one pass along the way. */
function olderHoles(wal: StoredWal, way: readonly Leg[], onWay: readonly BackupManifest[]): OlderHole[] {
  const size = BigInt(wal.segmentSizeBytes);
  const end = onWay.at(-1)?.startLsn ?? 0n;
  const found: OlderHole[] = [];
  let start = onWay[0]?.startLsn ?? end;
  while (start < end && found.length < holesAtMost) {
    const { hole, endLsn } = followWay(wal, way, start);
    if (hole === undefined || endLsn >= end) break;
    found.push({ ...hole, missingLsn: (endLsn / size) * size });
    const behind = (endLsn / size + 1n) * size;
    start = hole.nextLsn > behind ? hole.nextLsn : behind;
  }
  return found.filter((hole) => !isOfPolicy(hole, onWay, size));
}

/** Of a backup that is kept by itself a deletion leaves the WAL until it is consistent; then comes that of the next one. */
function isOfPolicy({ missingLsn, nextLsn }: OlderHole, onWay: readonly BackupManifest[], size: bigint): boolean {
  const isBehindOne = onWay.some(({ consistentLsn }) => (consistentLsn - 1n) / size + 1n === missingLsn / size);
  return isBehindOne && onWay.some(({ startLsn }) => startLsn / size === nextLsn / size);
}

function lostBehindOlder(onWay: readonly BackupManifest[], older: readonly OlderHole[]): Finding[] {
  const first = older.at(-1);
  if (first === undefined) return [];
  const before = onWay.filter(({ startLsn }) => startLsn < first.nextLsn);
  const more = older.length === 1 ? '' : `; there are ${older.length - 1} more holes before`;
  return [
    warning(`WAL has a hole behind an older backup: ${describeHole(first)}`, {
      detail: `from ${before.at(-1)?.id ?? 'none'} and what is older a restore gets no further${more}`,
      hint: 'Newer backups are not concerned. Push what is missing, if a pg_wal or another copy of the archive still has it.',
    }),
  ];
}

interface Reach {
  readonly onWay: readonly BackupManifest[];
  readonly older: readonly OlderHole[];
  readonly chain: Chain;
}

/** The last of the chain that are read to find a transaction's end in them. */
const readAtMost = 4;

/** From when to when every moment can be restored, as far as that is cheap to know. */
async function reach({ search }: Choice, { onWay, older, chain }: Reach): Promise<Figures> {
  const from = onWay.find(({ startLsn }) => older.every(({ nextLsn }) => startLsn >= nextLsn));
  const end = { ...chain, segments: chain.segments.slice(-readAtMost) };
  const to = await search.lastBefore(end, chain.endLsn).catch((error: unknown) => {
    if (error instanceof CorruptError) return undefined; // no key to data, or damaged: told elsewhere
    throw error;
  });
  return {
    ...(from === undefined ? {} : { restorable_from_timestamp_seconds: Date.parse(from.finishedAt) / 1000 }),
    ...(to === undefined ? {} : { restorable_to_timestamp_seconds: Number(to.time) / 1e6 }),
  };
}
