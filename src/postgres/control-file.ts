/** `global/pg_control`, as far as it tells which cluster this is. @see PostgreSQL `src/include/catalog/pg_control.h` */

import { isSegmentSize } from './wal-file-name.ts';

/** PostgreSQL pads the file to this size. */
const controlFileBytes = 8192;

export interface ControlFile {
  readonly systemIdentifier: string;
  readonly controlVersion: number;
  /** The timeline of the last checkpoint; undefined where the layout is not the known one. */
  readonly timeline: number | undefined;
  /** `wal_segment_size`; undefined where this version's layout is not the known one. */
  readonly segmentSizeBytes: number | undefined;
}

/** `floatFormat` stands in every layout at the place that all versions from 12 to 18 share, and tells that they still do. */
const floatFormat = { offset: 208, value: 1234567 } as const;
const segmentSizeOffset = 228;
/** `checkPointCopy.ThisTimeLineID` */
const timelineOffset = 48;

/**
 * System identifier 8, pg_control version 4, …, float format 8, three sizes of 4, segment size 4; undefined when this is no control file.
 * A torn read does no harm here: of these only the timeline ever changes, and it stands in the first sector.
 */
export function parseControlFile(file: Uint8Array): ControlFile | undefined {
  if (file.length !== controlFileBytes) return undefined;
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const systemIdentifier = view.getBigUint64(0, true);
  const controlVersion = view.getUint32(8, true);
  const sound = systemIdentifier !== 0n && controlVersion >= 1000 && controlVersion < 10_000;
  if (!sound) return undefined;
  const known = view.getFloat64(floatFormat.offset, true) === floatFormat.value;
  const sizeBytes = view.getUint32(segmentSizeOffset, true);
  const segmentSizeBytes = known && isSegmentSize(sizeBytes) ? sizeBytes : undefined;
  const timeline = known ? view.getUint32(timelineOffset, true) : undefined;
  return { systemIdentifier: systemIdentifier.toString(), controlVersion, timeline, segmentSizeBytes };
}
