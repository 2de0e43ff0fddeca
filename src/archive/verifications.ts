/** Verifications: what `wal-t verify` found when it looked at all backups. Each record is a new object; its name tells when, and how deep. */
import { randomBytes } from 'node:crypto';
import { CorruptError } from '../errors.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { kindPrefix, verificationName } from './keys.ts';
import { type DocumentWriter, getDocument, putDocument } from './sealed-document.ts';

export interface VerifiedBackup {
  readonly id: string;
  readonly isRestorable: boolean;
  /** The first of them, where it is not. */
  readonly reason?: string | undefined;
}

/** What was found. */
export interface Verification {
  readonly backups: readonly VerifiedBackup[];
  /** Undefined unless deep: WAL files that were read, and the keys of the first damaged ones. */
  readonly wal?: { readonly objects: number; readonly damaged: number; readonly named: readonly string[] } | undefined;
}

/** What the name of a record tells. */
export interface VerificationName {
  /** The key below the system identifier. */
  readonly name: string;
  /** By the clock of the host that verified. */
  readonly at: Date;
  readonly deep: boolean;
}

/** Longer reasons are cut, so that a record has a bound. */
const reasonLength = 500;
const namedAtMost = 20;

export async function storeVerification(
  archive: Archive,
  { at, deep, found }: { readonly at: Date; readonly deep: boolean; readonly found: Verification },
  writer: DocumentWriter,
): Promise<void> {
  const { wal } = found;
  const document = {
    at: at.toISOString(),
    host: writer.host,
    deep,
    backups: found.backups.map(({ id, isRestorable, reason }) => ({
      id,
      restorable: isRestorable,
      ...(reason === undefined ? {} : { reason: reason.slice(0, reasonLength) }),
    })),
    ...(wal === undefined ? {} : { wal: { ...wal, named: wal.named.slice(0, namedAtMost) } }),
  };
  const name = verificationName(at, deep, randomBytes(4).toString('hex'));
  await putDocument(archive, { kind: 'verification', name }, document, writer);
}

/** All records by their names, the oldest first. */
export async function listVerifications(
  { storage, systemIdentifier }: Pick<Archive, 'storage' | 'systemIdentifier'>,
  options: RequestOptions = {},
): Promise<VerificationName[]> {
  const found: VerificationName[] = [];
  for await (const { key } of storage.list(kindPrefix(systemIdentifier, 'verification'), options)) {
    const parsed = parseVerificationName(key.slice(systemIdentifier.length + 1));
    if (parsed !== undefined) found.push(parsed);
  }
  return found;
}

/** Undefined when it is none. */
export function parseVerificationName(name: string): VerificationName | undefined {
  const match = /^verification\/(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(\d{3})Z-(deep|shallow)-[0-9a-f]{8}$/.exec(name);
  if (match === null) return undefined;
  const [, year, month, day, hour, minute, second, millisecond, depth] = match;
  const at = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}.${millisecond}Z`);
  return Number.isNaN(at.getTime()) ? undefined : { name, at, deep: depth === 'deep' };
}

/** The newest deep one and the newest that is not: all that anybody asks for. */
export function newestOfEach(names: readonly VerificationName[]): VerificationName[] {
  const sorted = [...names].sort((a, b) => a.at.getTime() - b.at.getTime());
  return [sorted.findLast(({ deep }) => deep), sorted.findLast(({ deep }) => !deep)].filter((one) => one !== undefined);
}

/** @throws ObjectNotFound when it is gone, CorruptError when it cannot be understood. */
export async function readVerification(
  archive: Archive,
  { name }: Pick<VerificationName, 'name'>,
  options: RequestOptions = {},
): Promise<Verification> {
  const { backups, wal } = await getDocument(archive, { kind: 'verification', name }, options);
  if (!Array.isArray(backups) || !backups.every(isBackup) || !(wal === undefined || isWal(wal))) {
    throw new CorruptError(`"${name}" does not say what was found`);
  }
  return { backups: backups.map(({ id, restorable, reason }) => ({ id, isRestorable: restorable, reason })), wal };
}

function isBackup(value: unknown): value is { id: string; restorable: boolean; reason?: string } {
  const { id, restorable, reason } = (value ?? {}) as Record<string, unknown>;
  return (
    typeof id === 'string' && typeof restorable === 'boolean' && (reason === undefined || typeof reason === 'string')
  );
}

function isWal(value: unknown): value is NonNullable<Verification['wal']> {
  const { objects, damaged, named } = (value ?? {}) as Record<string, unknown>;
  return (
    Number.isSafeInteger(objects) &&
    Number.isSafeInteger(damaged) &&
    Array.isArray(named) &&
    named.every((key) => typeof key === 'string')
  );
}
