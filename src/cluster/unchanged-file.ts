/**
 * Rule (b) of increments: which files are taken over unread, since neither their times nor their size nor their inode say that they were written to.
 * Pure; reads no file. What is in doubt is read.
 */

/** Of a file, as `stat` has it. */
export interface FileTimes {
  readonly sizeBytes: number;
  /** When its content changed; anyone may set it. */
  readonly mtimeNs: bigint;
  /** When the content or anything else of it changed: only the kernel sets it. */
  readonly ctimeNs: bigint;
  readonly inode: bigint;
}

export interface ParentTimes {
  /** Before the parent's first file was read, by this host's clock. */
  readonly parentStartedAt: Date;
  /** What a file system rounds its times to, and how much they may lag behind the clock: on a network file system, by the other host's clock. */
  readonly marginMs: number;
}

/**
 * Is it the file that the parent read, and was it written to neither since nor while the parent read it? A file whose times are not older than the
 * parent's start by the margin may have been written to after it was read, within the same tick of the clock, and look the same.
 */
export function isSurelyUnchanged(
  known: FileTimes,
  now: FileTimes,
  { parentStartedAt, marginMs }: ParentTimes,
): boolean {
  const latestNs = BigInt(parentStartedAt.getTime() - marginMs) * 1_000_000n;
  return hasSameTimes(known, now) && now.mtimeNs < latestNs && now.ctimeNs < latestNs;
}

/** Does nothing say that it is another file, or was written to? */
export function hasSameTimes(known: FileTimes, now: FileTimes): boolean {
  return (
    known.sizeBytes === now.sizeBytes &&
    known.mtimeNs === now.mtimeNs &&
    known.ctimeNs === now.ctimeNs &&
    known.inode === now.inode
  );
}

/** Where and when a backup is taken. */
interface Origin {
  readonly host: string;
  readonly dataDirectory: string;
  readonly timeline: number;
}

/**
 * Why times and inodes that the parent recorded say nothing here and now, as the rest of a sentence; undefined when they do.
 * A timeline switch: pg_rewind and a restore in place write the past into files, and some tools that do so set back their times.
 */
export function whyTimesAreNotTrusted(
  parent: Origin & { readonly startedAt: Date; readonly finishedAt: Date },
  { host, dataDirectory, timeline, now }: Origin & { readonly now: Date },
): string | undefined {
  if (host !== parent.host) return `the parent was taken on host "${parent.host}"`;
  if (dataDirectory !== parent.dataDirectory) return `the parent was taken of "${parent.dataDirectory}"`;
  if (timeline !== parent.timeline) return `the timeline was ${parent.timeline} and is ${timeline}`;
  const [startedMs, finishedMs] = [parent.startedAt.getTime(), parent.finishedAt.getTime()];
  if (startedMs <= finishedMs && finishedMs <= now.getTime()) return undefined;
  return `the clock was set back: the parent started at ${parent.startedAt.toISOString()} and finished at ${parent.finishedAt.toISOString()}, and now it is ${now.toISOString()}`;
}
