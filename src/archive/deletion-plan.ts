/** What a running deletion is about to remove: published before anything is, so that a backup that ends meanwhile can see it (H27). */
import { randomBytes } from 'node:crypto';
import { CorruptError, ObjectNotFound } from '../errors.ts';
import { ownerOf, temporarySuffix } from '../left-overs.ts';
import { planExpiryMs } from '../limits.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { kindPrefix, planName } from './keys.ts';
import type { PartRange } from './retention-state.ts';
import { type DocumentWriter, getDocument, putDocument } from './sealed-document.ts';

export interface Removal {
  /** By the backup that stored them. */
  readonly parts: ReadonlyMap<string, readonly PartRange[]>;
  /** Names of segments and what belongs to them, each range ascending: first and last. */
  readonly wal: readonly (readonly [first: string, last: string])[];
}

export interface DeletionPlan extends Removal {
  /** Its name below the system identifier. */
  readonly name: string;
  /** When the storage received it, by its own clock. */
  readonly storedAt: Date;
  /** Whose it is: see left-overs.ts. */
  readonly owner: string;
}

/** @returns its name. */
export async function publishPlan(archive: Archive, removal: Removal, writer: DocumentWriter): Promise<string> {
  const name = planName(new Date(), randomBytes(4).toString('hex'));
  const document = {
    owner: temporarySuffix(),
    host: writer.host,
    parts: Object.fromEntries(removal.parts),
    wal: removal.wal,
  };
  await putDocument(archive, { kind: 'plan', name }, document, writer);
  return name;
}

/** All plans that are there; one that goes while it is read is over. @throws CorruptError when one cannot be understood. */
export async function readPlans(archive: Archive, options: RequestOptions = {}): Promise<DeletionPlan[]> {
  const plans: DeletionPlan[] = [];
  for await (const { key, modifiedAt } of archive.storage.list(kindPrefix(archive.systemIdentifier, 'plan'), options)) {
    const name = key.slice(archive.systemIdentifier.length + 1);
    const document = await getDocument(archive, { kind: 'plan', name }, options).catch(unlessGone);
    if (document === undefined) continue;
    const { owner, parts, wal } = document;
    if (typeof owner !== 'string' || !isParts(parts) || !isWal(wal))
      throw new CorruptError(`"${key}" does not say what it removes`);
    plans.push({ name, storedAt: modifiedAt, owner, parts: new Map(Object.entries(parts)), wal });
  }
  return plans;
}

function unlessGone(error: unknown): undefined {
  if (!(error instanceof ObjectNotFound)) throw error;
}

/** Is whoever made it still at it, for all one knows? `now` by the storage's clock. */
export function isAlive({ owner, storedAt }: DeletionPlan, now: Date): boolean {
  const found = ownerOf(owner);
  if (found === 'nobody') return false;
  return found === 'somebody' || now.getTime() - storedAt.getTime() < planExpiryMs;
}

/** Does the plan name one of these parts, or WAL between these segments? */
export function concerns(
  plan: Removal,
  {
    uses,
    wal,
  }: {
    readonly uses: Readonly<Record<string, readonly PartRange[]>>;
    readonly wal: { readonly first: string; readonly last: string };
  },
): boolean {
  const parts = Object.entries(uses).some(([backup, ranges]) =>
    (plan.parts.get(backup) ?? []).some(([first, last]) =>
      ranges.some((range) => range[0] <= last && first <= range[1]),
    ),
  );
  return parts || plan.wal.some(([first, last]) => first <= wal.last && wal.first <= last);
}

function isParts(value: unknown): value is Record<string, PartRange[]> {
  return (
    typeof value === 'object' &&
    value !== null &&
    Object.values(value).every((ranges) => Array.isArray(ranges) && ranges.every(isPair(Number.isSafeInteger)))
  );
}

function isWal(value: unknown): value is [string, string][] {
  return Array.isArray(value) && value.every(isPair((one) => typeof one === 'string'));
}

function isPair(isOne: (value: unknown) => boolean) {
  return (value: unknown) => Array.isArray(value) && value.length === 2 && value.every(isOne);
}
