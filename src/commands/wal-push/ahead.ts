/**
 * The backlog. PostgreSQL calls archive_command for one file at a time, and each call costs a start of Node.js and the storage's delay. So one
 * call also archives the next files that wait, several at a time, and leaves a marker for each: bin/wal-push answers with it when PostgreSQL
 * asks for that file. The file that was asked for decides alone how the call ends; what fails here comes back when PostgreSQL asks.
 */
import { stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Archive } from '../../archive/archive.ts';
import type { ClusterDocument } from '../../archive/repository.ts';
import { bindingOf } from '../../cluster/ahead.ts';
import { findWaitingFiles } from '../../cluster/archive-status.ts';
import { removePrefetchedAfterRecovery } from '../../cluster/prefetched.ts';
import { clearMarkers, type Marking, PushMarkers } from '../../cluster/push-markers.ts';
import { inspectWalFile } from '../../cluster/wal-file.ts';
import { ConflictError, CorruptError, HostError } from '../../errors.ts';
import { limits } from '../../limits.ts';
import type { WalFileName } from '../../postgres/wal-file-name.ts';
import { BoundedWork } from '../bounded-work.ts';
import { type Push, seal, store } from './push.ts';

export interface LookAhead {
  /** The file that was asked for is durable: comes to an end soon, whatever happens. */
  readonly finish: () => Promise<'done' | 'hanging'>;
  /** It could not be archived: nothing else counts. */
  readonly leave: () => void;
}

export interface Asked {
  readonly archive: Archive;
  /** What PostgreSQL has asked for. */
  readonly file: WalFileName;
  readonly finding: Promise<ClusterDocument>;
}

/** Begins at once, beside the file that was asked for. */
export function lookAhead(push: Push, asked: Asked): LookAhead {
  const run = new Run(push, asked);
  const work = run.work().catch((error: unknown) => run.fail('what waits', error));
  const yielding = setTimeout(run.bounds.leave, 2 * push.settings.times.aheadMs); // on a slow line it would share it for ever
  yielding.unref();
  const finish = async (): Promise<'done' | 'hanging'> => {
    clearTimeout(yielding);
    run.release();
    const end = await run.bounds.end(work, push.settings.times.aheadMs);
    run.report();
    return end;
  };
  return { finish, leave: run.bounds.leave };
}

class Run {
  readonly #push: Push;
  readonly #asked: Asked;
  readonly #failures: { readonly message: string; readonly hint: string | undefined }[] = [];
  readonly bounds: BoundedWork;
  /** How many more files may be on their way; one place is the asked one's until it is done. */
  #free = 0;
  #whenFree: () => void = () => undefined;

  constructor(push: Push, asked: Asked) {
    this.bounds = new BoundedWork(push.signal, () => this.#whenFree());
    this.#push = { ...push, signal: this.bounds.signal };
    this.#asked = asked;
  }

  release(): void {
    this.#free += 1;
    this.#whenFree();
  }

  fail(what: string, error: unknown): void {
    const failure = this.bounds.failed(error);
    if (failure === undefined) return;
    const hint = error instanceof HostError ? error.hint : undefined; // it may never come back when PostgreSQL asks
    this.#failures.push({ message: `${what} could not be archived ahead: ${failure}`, hint });
  }

  /** Told when what was asked for is done: else that one's own failure is what counts. */
  report(): void {
    for (const { message, hint } of this.#failures) this.#push.log.info(message, { hint });
  }

  async work(): Promise<void> {
    const { settings, workingDirectory, place } = this.#push;
    const { archive, file, finding } = this.#asked;
    const walFolder = resolve(workingDirectory, 'pg_wal');
    const binding = place === undefined ? undefined : await bindingOf(workingDirectory, place);
    if (binding === undefined) return;
    await removePrefetchedAfterRecovery(workingDirectory);
    const waiting = await findWaitingFiles(walFolder);
    await clearMarkers(walFolder, binding, new Set(waiting.map(({ name }) => name)));
    const others = waiting.filter(({ name }) => name !== file.name).slice(0, settings.walPushAhead);
    if (others.length === 0) return;
    const cluster = await finding.catch(() => undefined); // told by the file that was asked for
    if (cluster === undefined) return;
    const { repository } = cluster;
    const { systemIdentifier } = archive;
    const markers = await PushMarkers.open({ walFolder, binding, repository, systemIdentifier }, file.name);
    const { inFlight, inAll } = boundsFor(await largestSize(walFolder, others));
    this.#free += inFlight - 1;
    await this.#archiveAll(others.slice(0, markers.wasRefused ? 1 : inAll), { markers, cluster });
  }

  async #archiveAll(files: readonly WalFileName[], place: Marked): Promise<void> {
    const tasks: Promise<void>[] = [];
    for (const file of files) {
      if (await place.markers.has(file.name)) continue;
      while (this.#free < 1 && !this.bounds.isStopped) await new Promise<void>((resolve) => (this.#whenFree = resolve));
      if (this.bounds.isStopped) break;
      this.#free -= 1;
      tasks.push(this.#archiveMarked(file, place).finally(() => this.release()));
    }
    await Promise.all(tasks);
  }

  async #archiveMarked(file: WalFileName, { markers, cluster }: Marked): Promise<void> {
    let marking: Marking | undefined;
    try {
      marking = await markers.begin(file.name);
      if (marking === undefined) return;
      await this.#archive(file, marking, cluster);
      await marking.set();
    } catch (error) {
      this.fail(`"${file.name}"`, error);
      if (!(error instanceof CorruptError || error instanceof ConflictError)) this.bounds.stop(); // the next one would fare alike
      await marking?.drop();
    }
  }

  async #archive(file: WalFileName, { path }: Marking, { storage: findings }: ClusterDocument): Promise<void> {
    const { archive } = this.#asked;
    const source = await inspectWalFile(path, file);
    if ((source.systemIdentifier ?? archive.systemIdentifier) !== archive.systemIdentifier) {
      throw new CorruptError(`it was written by system ${source.systemIdentifier}`);
    }
    const sealed = await seal(this.#push, archive, { file, source });
    await store(this.#push, archive, { file, source, sealed, findings });
  }
}

interface Marked {
  readonly markers: PushMarkers;
  readonly cluster: ClusterDocument;
}

/** How many files of a size may be on their way at the same time, the one that was asked for included, and how many besides it in one call (H18). */
function boundsFor(sizeBytes: number): { readonly inFlight: number; readonly inAll: number } {
  const inFlight = Math.floor(limits.aheadInFlightBytes / sizeBytes);
  return {
    inFlight: Math.max(1, Math.min(limits.aheadInFlight, inFlight)),
    inAll: Math.floor(limits.aheadPushBytes / sizeBytes),
  };
}

/** Segments have one size; all else is small. */
async function largestSize(walFolder: string, files: readonly WalFileName[]): Promise<number> {
  const sizes = files.map(({ name }) =>
    stat(join(walFolder, name)).then(
      ({ size }) => size,
      () => 1,
    ),
  );
  return Math.max(1, ...(await Promise.all(sizes)));
}
