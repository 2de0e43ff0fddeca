/** What PostgreSQL does with each answer of wal-fetch: no fault of the archive opens a server early or stops a standby, and mended, nothing is missing. */
import { chmodSync, mkdirSync, renameSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import { FaultyFs, hasFaultyFs } from '../support/faulty-fs.ts';
import {
  type ArchivedCluster,
  allRows,
  archiveTwoTimelines,
  flipByte,
  GatedRecovery,
  type RecoveryOptions,
  rowsOf,
  unpack,
} from '../support/recovery.ts';
import { waitFor } from '../support/wait.ts';

const isTorture = process.env.TORTURE === '1';

/** Where a fault strikes. */
interface Place {
  readonly root: string;
  /** The file that holds the wanted segment. */
  readonly object: string;
  /** The repository as a file system with faults, for those who ask for it. */
  readonly fs: FaultyFs | undefined;
}

interface Fault {
  readonly what: string;
  /** The row whose segment is asked for when it strikes. */
  readonly row?: number;
  /** How the error is put, `%s` being the segment. */
  readonly reason: string;
  readonly throughFuse?: boolean;
  /** On 15 and 18, too, without TORTURE: what would open a server early. Nothing here depends on the version but PostgreSQL itself. */
  readonly everywhere?: boolean;
  /** In which kind of recovery only under TORTURE: wal-fetch's answer to it is another one's here. */
  readonly seldom?: readonly RecoveryOptions['signal'][];
  readonly begin: (place: Place) => Promise<void> | void;
  readonly mend: (place: Place) => Promise<void> | void;
}

const away = (path: string) => `${path}.away`;
const take = (path: string) => renameSync(path, away(path));
const bring = (path: string) => renameSync(away(path), path);

const faults: Fault[] = [
  {
    what: 'gone',
    reason: 'could not read ".*/%s" in .*: no such file or directory',
    begin: ({ root }) => take(root),
    mend: ({ root }) => bring(root),
  },
  {
    what: 'denied',
    seldom: ['recovery.signal', 'standby.signal'],
    reason: 'could not read ".*/%s" in .*: permission denied',
    begin: ({ root }) => chmodSync(root, 0),
    mend: ({ root }) => chmodSync(root, 0o755),
  },
  {
    what: 'not mounted',
    seldom: ['standby.signal'],
    reason: 'there is no repository at .*',
    begin: ({ root }) => {
      take(root);
      mkdirSync(root);
    },
    mend: ({ root }) => {
      rmdirSync(root);
      bring(root);
    },
  },
  {
    what: 'hanging',
    seldom: ['standby.signal'],
    throughFuse: true,
    reason: 'could not read ".*/%s" in .*: (?:no answer for 0.2 s|an earlier request still has no answer)',
    begin: ({ fs }) => fs?.set({ hang: ['*'] }),
    mend: ({ fs }) => fs?.set({}),
  },
  {
    what: 'corrupt',
    reason: '".*/%s" in .* is damaged: .*',
    begin: ({ object }) => flipByte(object),
    mend: ({ object }) => flipByte(object),
  },
  {
    what: 'without a segment in the middle',
    seldom: ['standby.signal'],
    reason: '"%s" is missing in the middle of the archive',
    begin: ({ object }) => take(object),
    mend: ({ object }) => bring(object),
  },
  {
    what: 'without the last segment before a timeline switch',
    everywhere: true,
    row: 3,
    reason: '"%s" is missing, but its timeline went further',
    begin: ({ object }) => take(object),
    mend: ({ object }) => bring(object),
  },
];

const impatient = {
  WALT_IDLE_TIMEOUT: '200ms',
  WALT_WAL_FETCH_TIMEOUT: '1s',
  WALT_WAL_FETCH_STANDBY_TIMEOUT: '500ms',
};
const patient = { WALT_WAL_FETCH_TIMEOUT: '60s', WALT_WAL_FETCH_STANDBY_TIMEOUT: '60s' };

describe.each([15, 17, 18])('PostgreSQL %s', (major) => {
  let archived: ArchivedCluster;
  beforeAll(async () => {
    archived = await archiveTwoTimelines(major);
  });
  afterAll(() => archived.remove());

  interface ReachOptions extends Omit<RecoveryOptions, 'before' | 'through'> {
    readonly row?: number;
    readonly throughFuse?: boolean;
  }

  /** A recovery that has replayed all before the segment of `row`. */
  async function reach({ onTestFinished }: TestContext, { row = 2, throughFuse = false, ...options }: ReachOptions) {
    const segment = archived.segments[row] ?? '';
    let fs: FaultyFs | undefined;
    const through = async (root: string) => {
      const mounted = await FaultyFs.start(root);
      onTestFinished(() => mounted.unmount());
      fs = mounted;
      return mounted.path;
    };
    const recovery = new GatedRecovery(archived, { ...options, before: segment, ...(throughFuse && { through }) });
    onTestFinished(() => recovery.remove());
    await recovery.reach();
    const { server, repository } = recovery;
    return { recovery, server, segment, place: { root: repository.root, object: repository.object(segment), fs } };
  }

  const isThorough = isTorture || major === 17;
  /** The faults that are met in this kind of recovery. */
  const chosen = (signal: RecoveryOptions['signal']) => {
    const isChosen = ({ everywhere = false, seldom = [] }: Fault) =>
      isThorough ? isTorture || !seldom.includes(signal) : everywhere && signal === 'recovery.signal';
    return faults.filter((fault) => isChosen(fault) && (hasFaultyFs || fault.throughFuse !== true));
  };

  describe.concurrent('over a storage that is out of order', () => {
    it.for(chosen('recovery.signal'))(
      'stops an archive recovery instead of opening, and resumes it: $what',
      async (fault, context) => {
        const { row = 2, throughFuse = false, reason, begin, mend } = fault;
        const options = { signal: 'recovery.signal', settings: impatient, row, throughFuse } as const;
        const { recovery, server, segment, place } = await reach(context, options);
        await begin(place);
        recovery.letOn();
        await waitFor('the server to stop', () => !server.isRunning);
        expect(server.log).toMatch(line(`wal-fetch: error: ${reason}`, segment));
        const fatal = '.* FATAL: +could not restore file "%s" from archive: child process exited with exit code 200';
        expect(server.log).toMatch(line(fatal, segment));
        expect(server.log).not.toContain('selected new timeline');
        await mend(place);
        await server.open();
        expect(await rowsOf(server)).toBe(allRows);
      },
    );

    it.for(chosen('standby.signal'))(
      'does not stop a standby, which goes on by itself: $what',
      async (fault, context) => {
        const { row = 2, throughFuse = false, reason, begin, mend } = fault;
        const options = { signal: 'standby.signal', settings: impatient, row, throughFuse } as const;
        const { recovery, server, segment, place } = await reach(context, options);
        await begin(place);
        recovery.letOn();
        const complaint = line(`wal-fetch: error: ${reason}`, segment);
        const complaints = () => server.log.match(complaint)?.length ?? 0;
        await waitFor('the standby to try again', () => complaints() > 1 || !server.isRunning);
        expect(await rowsOf(server)).not.toBe(allRows);
        await mend(place);
        await waitFor('the standby to catch up', async () => (await rowsOf(server)) === allRows);
        expect(await server.value('select pg_is_in_recovery()')).toBe('true');
      },
    );
  });

  if (!isThorough) return;
  describe.concurrent.each(['recovery.signal', 'standby.signal'] as const)('with %s', (signal) => {
    it('waits for a segment that arrives late', async (context) => {
      const { recovery, server, segment, place } = await reach(context, { signal, settings: patient });
      take(place.object);
      recovery.letOn();
      const waiting = `"${segment}" is missing in the middle of the archive; trying again`;
      await waitFor('wal-fetch to wait', () => server.log.includes(waiting));
      bring(place.object);
      const rows = () => rowsOf(server).catch(() => 'none yet');
      await waitFor('all rows', async () => !server.isRunning || (await rows()) === allRows);
      expect(await rows()).toBe(allRows);
      expect(server.log).not.toContain('wal-fetch: error');
    });
  });

  describe.concurrent('a standby that is promoted by hand', () => {
    it('H7: opens in an outage, and says loudly what it opened without', async (context) => {
      const settings = { ...patient, WALT_WAL_FETCH_PROMOTE_TIMEOUT: '100ms' };
      const { recovery, server, segment, place } = await reach(context, { signal: 'standby.signal', settings });
      take(place.root);
      recovery.letOn();
      await waitFor('wal-fetch to wait', () => server.log.includes('trying again'));
      await server.query('select pg_promote(false)');
      // PostgreSQL asks again for the last segment and for histories, which this one need not wait for
      recovery.repository.configure({ WALT_WAL_FETCH_STANDBY_TIMEOUT: '1ms' });
      await server.waitUntilOpen();
      const warning = 'this standby is being promoted WITHOUT "%s", which may be in the archive';
      expect(server.log).toMatch(line(`wal-fetch: warning: ${warning}`, segment));
      expect(await rowsOf(server)).toBe('1');
    });

    it('H7: is given WALT_WAL_FETCH_PROMOTE_TIMEOUT for the outage to pass', async (context) => {
      const settings = { WALT_WAL_FETCH_STANDBY_TIMEOUT: '1ms', WALT_WAL_FETCH_PROMOTE_TIMEOUT: '60s' };
      const { recovery, server, place } = await reach(context, { signal: 'standby.signal', settings });
      take(place.root);
      await server.query('select pg_promote(false)');
      recovery.letOn();
      await waitFor('wal-fetch to wait', () => server.log.includes('trying again'));
      bring(place.root);
      await server.waitUntilOpen();
      expect(await rowsOf(server)).toBe(allRows);
      expect(server.log).not.toContain('wal-fetch: warning');
    });
  });

  // a control: these tests can fail
  it.runIf(major === 17)('opens early over the same hole with cp as restore_command', async (context) => {
    const raw = await unpack(archived);
    const options = { signal: 'recovery.signal', restoreCommand: `cp ${raw}/%f %p` } as const;
    const { recovery, server, segment } = await reach(context, options);
    take(join(raw, segment));
    recovery.letOn();
    await server.waitUntilOpen();
    expect(await rowsOf(server)).toBe('1');
  });
});

/** A whole line of a log. */
function line(pattern: string, segment: string): RegExp {
  return new RegExp(`^${pattern.replaceAll('%s', segment)}$`, 'gm');
}
