/**
 * The files of relations by their names: which relation, which fork, which segment.
 * @see PostgreSQL `parse_filename_for_nontemp_relation` (reinit.c), `looks_like_temp_rel_name` (fd.c), `sendDir` (basebackup.c)
 */
import type { BytePath } from '../byte-path.ts';

export type RelationFork = 'main' | 'fsm' | 'vm' | 'init';

export interface RelationFile {
  /** Folder and relfilenode, which all forks and segments share: `base/5/1259`. */
  readonly relation: BytePath;
  readonly fork: RelationFork;
  /** 0 for the first file, which bears no number. */
  readonly segment: number;
}

/** Numbers without leading zeros, as PostgreSQL 17 and later demand: older ones never made others. A tablespace's folder is of one major version. */
const pattern =
  /^((?:global|(?:base|pg_tblspc\/[0-9]+\/PG_[0-9]+_[0-9]+)\/[0-9]+)\/([1-9][0-9]{0,9}))(?:_(fsm|vm|init))?(?:\.([1-9][0-9]{0,9}))?$/;
const maxNumber = 0xffff_ffff;

/** What the file of this path, relative to the data directory, is of a relation; undefined for every other file and for temporary relations. */
export function parseRelationFile(path: BytePath): RelationFile | undefined {
  const match = pattern.exec(path);
  const [, relation, number = '', fork = 'main', segment = '0'] = match ?? [];
  if (relation === undefined || Number(number) > maxNumber || Number(segment) > maxNumber) return undefined;
  return { relation, fork: fork as RelationFork, segment: Number(segment) };
}

const temporaryPattern = /^t[0-9]+_[0-9]+(?:_(?:fsm|vm|init))?(?:\.[0-9]+)?$/;

/** Is a file of this name, in a database's folder, one of a temporary relation (`t3_16384`, `t3_16384_fsm.1`)? */
export function isTemporaryRelation(name: BytePath): boolean {
  return temporaryPattern.test(name);
}
