/** `global/pg_control`: which cluster this is, what it is doing, and how its files are laid out. @see PostgreSQL `src/include/catalog/pg_control.h` */
import type { Lsn } from './lsn.ts';
import { isSegmentSize } from './wal-file-name.ts';

/** PostgreSQL pads the file to this size. */
export const controlFileBytes = 8192;

/** `DBState`, in `pg_controldata`'s words. */
const states = [
  'starting up',
  'shut down',
  'shut down in recovery',
  'shutting down',
  'in crash recovery',
  'in archive recovery',
  'in production',
] as const;

export type ClusterState = (typeof states)[number];

export interface ControlFile {
  readonly systemIdentifier: string;
  readonly controlVersion: number;
  /** `CATALOG_VERSION_NO`; with the major version it names the folders in tablespaces. */
  readonly catalogVersion: number;
  /** The timeline of the last checkpoint; undefined where the layout is not the known one. */
  readonly timeline: number | undefined;
  /** `wal_segment_size`; undefined where this version's layout is not the known one. */
  readonly segmentSizeBytes: number | undefined;
  /** This and all below are undefined unless the version is one whose layout is known: 13 to 18. */
  readonly state: ClusterState | undefined;
  /** Where the last checkpoint's record begins. */
  readonly checkpoint: Lsn | undefined;
  /** Where replay begins from that checkpoint. */
  readonly redo: Lsn | undefined;
  /** In archive recovery: replayed less far than this, the files are not consistent; else 0. */
  readonly minRecoveryPoint: Lsn | undefined;
  /** The timeline of `minRecoveryPoint`, 0 where there is none. */
  readonly minRecoveryTimeline: number | undefined;
  /** `BLCKSZ` */
  readonly pageSizeBytes: number | undefined;
  /** `RELSEG_SIZE`: the pages of a relation's full segment. */
  readonly relationSegmentBlocks: number | undefined;
  /** Do the pages carry checksums? */
  readonly checksums: boolean | undefined;
}

/** `floatFormat` stands in every layout at the place that all versions from 12 to 18 share, and tells that they still do. */
const floatFormat = { offset: 208, value: 1234567 } as const;
const segmentSizeOffset = 228;
/** `checkPointCopy.ThisTimeLineID` */
const timelineOffset = 48;

/** `PG_CONTROL_VERSION` of PostgreSQL 13 to 16, of 17 and of 18: what is read here stands at the same places in all of them. */
const knownVersions: readonly number[] = [1300, 1700, 1800];

/**
 * System identifier 8, pg_control version 4, catalog version 4, …; undefined when this is no control file.
 * A torn read does no harm to which cluster this is: of that only the timeline ever changes, and it stands in the first sector.
 * Whoever needs more than that asks `isWhole` (control-file-crc.ts) first.
 */
export function parseControlFile(file: Uint8Array): ControlFile | undefined {
  if (file.length !== controlFileBytes) return undefined;
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const systemIdentifier = view.getBigUint64(0, true);
  const controlVersion = view.getUint32(8, true);
  const sound = systemIdentifier !== 0n && controlVersion >= 1000 && controlVersion < 10_000;
  if (!sound) return undefined;
  const alike = view.getFloat64(floatFormat.offset, true) === floatFormat.value;
  const sizeBytes = view.getUint32(segmentSizeOffset, true);
  return {
    systemIdentifier: systemIdentifier.toString(),
    controlVersion,
    catalogVersion: view.getUint32(12, true), // this and what is before it never moves
    timeline: alike ? view.getUint32(timelineOffset, true) : undefined,
    segmentSizeBytes: alike && isSegmentSize(sizeBytes) ? sizeBytes : undefined,
    ...(alike && knownVersions.includes(controlVersion) ? parseKnown(view) : unknown),
  };
}

/**
 * state 4 at 16, checkpoint 8 at 32, its redo 8 at 40, minRecoveryPoint 8 at 136, its timeline 4 at 144,
 * block size 4 at 216, blocks of a segment 4 at 220, version of the page checksums (0: none) 4 at 252.
 */
function parseKnown(view: DataView) {
  return {
    state: states[view.getUint32(16, true)],
    checkpoint: view.getBigUint64(32, true),
    redo: view.getBigUint64(40, true),
    minRecoveryPoint: view.getBigUint64(136, true),
    minRecoveryTimeline: view.getUint32(144, true),
    pageSizeBytes: view.getUint32(216, true),
    relationSegmentBlocks: view.getUint32(220, true),
    checksums: view.getUint32(252, true) !== 0,
  };
}

const unknown = {
  state: undefined,
  checkpoint: undefined,
  redo: undefined,
  minRecoveryPoint: undefined,
  minRecoveryTimeline: undefined,
  pageSizeBytes: undefined,
  relationSegmentBlocks: undefined,
  checksums: undefined,
} satisfies { [member in keyof ReturnType<typeof parseKnown>]: undefined };
