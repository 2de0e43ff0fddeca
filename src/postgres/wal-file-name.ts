/** The names that PostgreSQL gives to the files it archives. @see PostgreSQL `src/include/access/xlog_internal.h` */
import type { Lsn } from './lsn.ts';

/** A full segment: `TTTTTTTTXXXXXXXXYYYYYYYY`. */
export interface SegmentName {
  readonly kind: 'segment';
  readonly name: string;
  readonly timeline: number;
  /** The middle eight digits. */
  readonly log: number;
  /** The last eight digits. */
  readonly seg: number;
}

/** The last, unfinished segment of a timeline, archived by a promotion: `<segment>.partial`. */
export interface PartialName extends Omit<SegmentName, 'kind'> {
  readonly kind: 'partial';
  readonly segment: string;
}

/** A backup history file: `<segment>.<offset>.backup`. */
export interface BackupHistoryName extends Omit<SegmentName, 'kind'> {
  readonly kind: 'backup';
  readonly segment: string;
}

/** A timeline history file: `TTTTTTTT.history`. */
export interface HistoryName {
  readonly kind: 'history';
  readonly name: string;
  readonly timeline: number;
}

export type WalFileName = SegmentName | PartialName | BackupHistoryName | HistoryName;

const minSegmentSizeBytes = 1024 * 1024;
const maxSegmentSizeBytes = 1024 * 1024 * 1024;

const segmentPattern = /^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$/;
/** The second suffix is WAL-T's own, for a partial segment of other content under the same name. */
const partialPattern = /^([0-9A-F]{24})\.partial(?:\.[0-9a-f]{8})?$/;
const backupPattern = /^([0-9A-F]{24})\.[0-9A-F]{8}\.backup$/;
const historyPattern = /^([0-9A-F]{8})\.history$/;

/** What a file of this name is; undefined when PostgreSQL archives nothing of that name. */
export function parseWalFileName(name: string): WalFileName | undefined {
  const history = historyPattern.exec(name)?.[1];
  if (history !== undefined) {
    const timeline = Number.parseInt(history, 16);
    return timeline === 0 ? undefined : { kind: 'history', name, timeline };
  }
  const partial = partialPattern.exec(name)?.[1];
  const backup = backupPattern.exec(name)?.[1];
  const segment = partial ?? backup ?? name;
  const digits = parseSegmentDigits(segment);
  if (digits === undefined) return undefined;
  if (partial !== undefined) return { kind: 'partial', name, segment, ...digits };
  if (backup !== undefined) return { kind: 'backup', name, segment, ...digits };
  return { kind: 'segment', name, ...digits };
}

function parseSegmentDigits(name: string) {
  const match = segmentPattern.exec(name);
  if (match === null) return undefined;
  const [timeline, log, seg] = match.slice(1).map((digits) => Number.parseInt(digits, 16));
  if (timeline === undefined || log === undefined || seg === undefined) return undefined;
  return timeline === 0 ? undefined : { timeline, log, seg };
}

export function formatHistoryName(timeline: number): string {
  return `${formatTimeline(timeline)}.history`;
}

/** Timeline ids are eight hexadecimal digits in every file name. */
export function formatTimeline(timeline: number): string {
  return timeline.toString(16).toUpperCase().padStart(8, '0');
}

/** The name of the segment of `timeline` that holds `lsn`. */
export function segmentNameAt(timeline: number, lsn: Lsn, segmentSizeBytes: number): string {
  const number = lsn / BigInt(segmentSizeBytes);
  const perLog = segmentsPerLog(segmentSizeBytes);
  const digits = [number / perLog, number % perLog].map((part) => part.toString(16).toUpperCase().padStart(8, '0'));
  return `${formatTimeline(timeline)}${digits.join('')}`;
}

/** The LSN of the segment's first byte; undefined when no segment of this size bears that name. */
export function segmentStart(
  { log, seg }: Pick<SegmentName, 'log' | 'seg'>,
  segmentSizeBytes: number,
): Lsn | undefined {
  if (BigInt(seg) >= segmentsPerLog(segmentSizeBytes)) return undefined;
  return (BigInt(log) << 32n) + BigInt(seg) * BigInt(segmentSizeBytes);
}

/** A power of two from 1 MiB to 1 GiB. */
export function isSegmentSize(sizeBytes: number): boolean {
  return sizeBytes >= minSegmentSizeBytes && sizeBytes <= maxSegmentSizeBytes && Number.isInteger(Math.log2(sizeBytes));
}

function segmentsPerLog(segmentSizeBytes: number): bigint {
  return 0x1_0000_0000n / BigInt(segmentSizeBytes);
}
