/** Which names of a data directory are no part of a backup. */
import { describe, expect, it } from 'vitest';
import {
  isBackedUpEmpty,
  isDatabaseFolder,
  isExcluded,
  isTablespacePath,
  tablespaceVersionFolder,
  withoutUnlogged,
} from '../../src/cluster/exclusions.ts';

const inTablespace = 'pg_tblspc/16384/PG_17_202406281';

describe('exclusions', () => {
  const anywhere = [
    'postgresql.auto.conf.tmp',
    'current_logfiles.tmp',
    'backup_label',
    'tablespace_map',
    'backup_manifest',
    'postmaster.pid',
    'postmaster.opts',
    '.DS_Store',
    'pgsql_tmp',
    'pgsql_tmp1234.0.sharedfileset',
    'pg_internal.init',
    'pg_internal.init.4711',
  ];
  it.each(anywhere)('leaves out "%s" in any folder, as pg_basebackup does', (name) => {
    for (const folder of ['', 'global', 'base/5', inTablespace, `${inTablespace}/5`, 'log']) {
      expect(isExcluded(folder, name), folder).toBe(true);
    }
  });

  const atTop = [
    'standby.signal',
    'recovery.signal',
    'promote',
    'fallback_promote',
    'wal-t-config',
    '.wal-t',
    '.wal-t-x',
  ];
  it.each(atTop)('H22: leaves out "%s" at the top, and only there', (name) => {
    expect(isExcluded('', name)).toBe(true);
    expect(isExcluded('log', name)).toBe(false);
    expect(isExcluded('base/5', name)).toBe(false);
  });

  it('H20: leaves out pg_control, which is copied last, and no file of that name elsewhere', () => {
    expect(['global', '', 'base/5'].map((folder) => isExcluded(folder, 'pg_control'))).toEqual([true, false, false]);
  });

  const kept = ['PG_VERSION', 'postgresql.auto.conf', 'current_logfiles', 'backup_label.old', 'pg_filenode.map', 'x'];
  it.each(['postmaster.pid.x', 'xpgsql_tmp', 'pg_internal', 'standby.signal.x', ...kept])('keeps "%s"', (name) => {
    expect(isExcluded('', name)).toBe(false);
    expect(isExcluded('base/5', name)).toBe(false);
  });

  it('leaves out temporary relations where relations of a database lie, and nowhere else', () => {
    for (const name of ['t3_16384', 't3_16384_fsm', 't12_5.1', 't12_5_vm.3']) {
      expect(isExcluded('base/5', name), name).toBe(true);
      expect(isExcluded(`${inTablespace}/5`, name), name).toBe(true);
      expect(isExcluded('', name) || isExcluded('base', name) || isExcluded('log', name), name).toBe(false);
    }
    for (const name of ['t3', 't3_', 't_3', 'x3_3', 't3_3_main', 't3_3.'])
      expect(isExcluded('base/5', name)).toBe(false);
  });

  it.each([
    ['base/5', true],
    [`${inTablespace}/5`, true],
    ['base', false],
    ['base/pgsql_tmp', false],
    ['global', false],
    ['x/base/5', false],
    ['pg_tblspc/16384/5', false],
    ['base/5/5', false],
  ])('knows whether "%s" holds relations: %s', (path, expected) => {
    expect(isDatabaseFolder(path)).toBe(expected);
  });

  it.each([
    ['pg_tblspc/16384', true],
    ['pg_tblspc/0', false],
    ['pg_tblspc/x', false],
    ['pg_tblspc', false],
    ['pg_tblspc/16384/PG_17_202406281', false],
    ['x/pg_tblspc/16384', false],
  ])('knows whether "%s" is the place of a tablespace: %s', (path, expected) => {
    expect(isTablespacePath(path)).toBe(expected);
  });

  it('keeps the folders that a server expects, without what they hold', () => {
    const folders = 'pg_wal pg_replslot pg_dynshmem pg_notify pg_serial pg_snapshots pg_stat_tmp pg_subtrans'.split(
      ' ',
    );
    for (const name of folders) {
      expect(isBackedUpEmpty(name), name).toBe(true);
      expect(isExcluded('', name), name).toBe(false);
    }
    for (const name of ['base', 'pg_xact', 'pg_stat', 'pg_logical', 'x/pg_wal'])
      expect(isBackedUpEmpty(name)).toBe(false);
  });

  it('names the folder of this cluster in a tablespace', () => {
    expect(tablespaceVersionFolder(15, 202209061)).toBe('PG_15_202209061');
  });

  const unlogged = ['16384', '16384.1', '16384.12', '16384_fsm', '16384_fsm.1', '16384_vm'];
  const remaining = [
    '16384_init',
    '16384_init.1',
    '163840',
    '163840.1',
    '1638',
    '16385',
    '16385_vm',
    'PG_VERSION',
    'x_init',
  ];
  it.each(['base/5', `${inTablespace}/5`])('keeps of unlogged relations in %s the init fork alone', (folder) => {
    expect(withoutUnlogged(folder, [...unlogged, ...remaining])).toEqual(remaining);
  });

  it.each(['global', 'base', ''])('knows no unlogged relations in "%s"', (folder) => {
    expect(withoutUnlogged(folder, [...unlogged, ...remaining])).toEqual([...unlogged, ...remaining]);
  });
});
