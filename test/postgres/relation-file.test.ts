/** Which files belong to which relation: page checks, increments and the exclusion of unlogged and temporary tables hang on it. */
import { expect, it } from 'vitest';
import { isTemporaryRelation, parseRelationFile } from '../../src/postgres/relation-file.ts';

const tablespace = 'pg_tblspc/16384/PG_15_202209061';

it.each([
  ['base/5/1259', 'base/5/1259', 'main', 0],
  ['base/5/1259.1', 'base/5/1259', 'main', 1],
  ['base/5/1259_fsm', 'base/5/1259', 'fsm', 0],
  ['base/5/1259_vm.12', 'base/5/1259', 'vm', 12],
  ['base/16400/16401_init', 'base/16400/16401', 'init', 0],
  ['global/1260', 'global/1260', 'main', 0],
  ['global/1260_vm', 'global/1260', 'vm', 0],
  [`${tablespace}/5/16385_fsm`, `${tablespace}/5/16385`, 'fsm', 0],
  [`${tablespace}/5/16385.131072`, `${tablespace}/5/16385`, 'main', 131072],
  ['base/5/4294967295.4294967295', 'base/5/4294967295', 'main', 4294967295],
])('knows %s', (path, relation, fork, segment) => {
  expect(parseRelationFile(path)).toEqual({ relation, fork, segment });
});

it.each([
  ...['base/5/PG_VERSION', 'base/5/pg_filenode.map', 'base/5/pg_internal.init', 'global/pg_control', 'base/5/t3_16384'],
  ...['base/5/0', 'base/5/01259', 'base/5/4294967296', 'base/5/12590000000', 'base/5/1259.0', 'base/5/1259.01'],
  ...['base/5/1259.', 'base/5/1259_', 'base/5/1259_main', 'base/5/1259_fsmx', 'base/5/1259.1_fsm', 'base/5/1259.tmp'],
  ...['base/5/1259\n', 'base/5/x/1259', 'base/1259', 'base/pgsql_tmp/1259', '1259', 'pg_xact/0000', 'pg_xact/1000'],
  ...['global/5/1259', 'wal-t-config/base/5/1259', './base/5/1259', `${tablespace}/16385`, `${tablespace}/5/t3_16384`],
  ...['pg_tblspc/16384/5/16385', 'pg_tblspc/x/PG_15_202209061/5/16385', 'pg_tblspc/16384/PG_15/5/16385', ''],
])('takes %j for no file of a relation', (path) => expect(parseRelationFile(path)).toBeUndefined());

it.each([...['t3_16384', 't12_16384_fsm', 't3_16384_vm', 't3_16384_init', 't3_16384.1', 't3_16384_fsm.1', 't0_0']])(
  'knows %s for temporary',
  (name) => expect(isTemporaryRelation(name)).toBe(true),
);

it.each([
  ...['16384', 't_16384', 't3_', 't3_x', 't3', 't3_16384_', 't3_16384_main', 't3_16384.', 't3_16384.1_fsm', 'T3_16384'],
  ...['xt3_16384', 't3_16384\n', 't3_16384.x', 't3_16384_fsm.1.1', ''],
])('does not take %j for temporary', (name) => expect(isTemporaryRelation(name)).toBe(false));
