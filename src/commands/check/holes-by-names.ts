/** Holes in the archived WAL as far as keys alone tell of them: for a host that has no identity. */
import type { StoredWal } from '../../archive/stored-wal.ts';
import { followWay } from '../../archive/window.ts';
import { readControlFile } from '../../cluster/data-directory.ts';
import { parseWalFileName, segmentStart } from '../../postgres/wal-file-name.ts';
import { type Finding, ok } from './finding.ts';
import { behindNewest } from './holes-by-manifests.ts';
import { settled } from './on-its-way.ts';
import type { Subject } from './subject.ts';
import { type NewestWal, readWalNames, segmentSizeIn, storedWalOf, type WalNames } from './wal-names.ts';

/** Without a key to manifests: from the newest backup's first segment, which its name tells, or the first that is left of its WAL. */
export async function holesByNames(subject: Subject, names: WalNames, newest: NewestWal): Promise<Finding[]> {
  const backup = (await subject.backups.get()).findLast(({ state }) => state === 'confirmed');
  if (backup === undefined) return [{ level: 'skipped', message: 'there is no confirmed backup' }];
  const size = await segmentSize(subject, names);
  const { hole, seen } = await settled(subject, newest, async (again) => {
    const seen = again ? await readWalNames(await subject.place.get(), subject.context) : names;
    return { hole: firstHole(storedWalOf(seen, size), backup, newest), seen };
  });
  const detail =
    'seen by names alone: this host has no key to manifests and histories, so older backups were not looked at';
  if (hole !== undefined) {
    return [{ ...behindNewest(backup.id, hole.missing, hole), detail: `${backup.id}; ${detail}` }];
  }
  const last = seen.newest ?? newest;
  return [ok(`WAL is there without a hole from the newest backup on, to ${last.file.name}`, { detail })];
}

/** On the backup's timeline from its start on, and on that of the newest WAL from its own beginning. */
function firstHole(wal: StoredWal, backup: { readonly segment: string; readonly timeline: number }, newest: NewestWal) {
  const file = parseWalFileName(backup.segment);
  const from = file?.kind === 'segment' ? (segmentStart(file, wal.segmentSizeBytes) ?? 0n) : 0n;
  for (const timeline of new Set([backup.timeline, newest.file.timeline])) {
    const { ranges = [] } = wal.timelines.get(timeline) ?? {};
    const first = ranges.find(({ endLsn }) => timeline !== backup.timeline || endLsn > from);
    if (first === undefined) continue;
    const start = first.startLsn > from || timeline !== backup.timeline ? first.startLsn : from;
    const { hole } = followWay(wal, [{ timeline, startLsn: 0n, endLsn: undefined }], start);
    if (hole !== undefined) return hole;
  }
  return undefined;
}

/** That of the cluster where its data directory is, else as names tell it; where they do not it makes no difference. */
async function segmentSize({ dataDirectory }: Subject, names: WalNames): Promise<number> {
  const control = dataDirectory === undefined ? undefined : await readControlFile(dataDirectory);
  return control?.segmentSizeBytes ?? segmentSizeIn(names) ?? 16 * 1024 * 1024;
}
