/** What waits to be archived: how much, and since when? */
import { checkThresholds } from '../../limits.ts';
import { formatBytes, formatDuration } from '../../quantities.ts';
import { expectArchiving } from './archiving.ts';
import { type Check, failed, ok, warning } from './finding.ts';

export const backlog: Check = {
  name: 'backlog',
  about: 'little waits to be archived, and not for long',
  async look(subject) {
    const server = await subject.server.get();
    expectArchiving(server);
    const { count, segments, oldest } = await subject.readyFiles.own();
    const bytes = segments * server.segmentSizeBytes;
    const ageMs = oldest === undefined ? 0 : Math.max(0, Date.now() - oldest.since.getTime());
    const figures = {
      backlog_segments: segments,
      backlog_bytes: bytes,
      backlog_oldest_age_seconds: ageMs / 1000,
    };
    if (oldest === undefined) return ok('nothing waits to be archived', { figures });
    const what = segments === count ? `${segments} segments` : `${count} files`;
    const message = `${what}, ${formatBytes(bytes)}, ${count === 1 ? 'waits' : 'wait'} to be archived, "${oldest.name}" for ${formatDuration(ageMs)}`;
    const [warnMs, failMs] = checkThresholds.backlogAgeMs;
    const level = levelOf({ ageMs, warnMs, failMs, segments });
    const hint =
      level === ok
        ? undefined
        : 'See "archiver". Where it gets on, it is slower than WAL is written: look at the storage, or archive from a faster network.';
    return level(message, { figures, hint });
  },
};

interface Found {
  readonly ageMs: number;
  readonly warnMs: number;
  readonly failMs: number;
  readonly segments: number;
}

function levelOf({ ageMs, warnMs, failMs, segments }: Found) {
  if (ageMs > failMs) return failed;
  return ageMs > warnMs || segments > checkThresholds.backlogSegments ? warning : ok;
}
