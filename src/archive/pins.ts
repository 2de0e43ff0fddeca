/** Pins: a backup is kept, whatever the policy says. Each record is a new object; of a backup's records the last one counts. */
import { CorruptError } from '../errors.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { parseBackupId } from './backup-id.ts';
import { kindPrefix, pinName } from './keys.ts';
import type { Pin } from './retention-state.ts';
import { type DocumentWriter, getDocument, putDocument } from './sealed-document.ts';

/** Pins a backup until a time, for ever, or (`no longer`) not any more. The record is the last of the backup's, whatever the clock says. */
export async function setPin(
  archive: Archive,
  {
    backup,
    until,
    setAt,
  }: { readonly backup: string; readonly until: Date | 'for ever' | 'no longer'; readonly setAt: Date },
  writer: DocumentWriter,
): Promise<void> {
  const document = {
    backup,
    until: until instanceof Date ? until.toISOString() : until,
    setAt: setAt.toISOString(),
    host: writer.host,
  };
  const name = await lastName(archive, { backup, setAt }, writer);
  await putDocument(archive, { kind: 'pin', name }, document, writer);
}

/** A name behind those of all records of the backup, also when they were set by a host whose clock is ahead. */
async function lastName(
  { storage, systemIdentifier }: Archive,
  { backup, setAt }: { readonly backup: string; readonly setAt: Date },
  { signal }: RequestOptions,
): Promise<string> {
  let time = setAt;
  const prefix = `${kindPrefix(systemIdentifier, 'pin')}${backup}/`;
  for await (const { key } of storage.list(prefix, { signal })) {
    const before = pinTime(key);
    if (before !== undefined && before >= time) time = new Date(before.getTime() + 1);
  }
  return pinName(backup, time);
}

/** When the record of this key was set, by its name. */
function pinTime(key: string): Date | undefined {
  const digits = /\/(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(\d{3})Z$/.exec(key);
  if (digits === null) return undefined;
  const [, year, month, day, hour, minute, second, millisecond] = digits;
  const time = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}.${millisecond}Z`);
  return Number.isNaN(time.getTime()) ? undefined : time;
}

/** The pins in force: one that lies in the past is given, too. @throws CorruptError when one cannot be understood (H28). */
export async function readPins(archive: Archive, options: RequestOptions = {}): Promise<Pin[]> {
  const last = new Map<string, string>();
  const prefix = kindPrefix(archive.systemIdentifier, 'pin');
  for await (const { key } of archive.storage.list(prefix, options)) {
    const backup = key.slice(prefix.length).split('/')[0] ?? '';
    if (parseBackupId(backup) !== undefined) last.set(backup, key.slice(archive.systemIdentifier.length + 1));
  }
  const pins: Pin[] = [];
  for (const [backup, name] of last) {
    const until = parseUntil((await getDocument(archive, { kind: 'pin', name }, options)).until, name);
    if (until !== undefined) pins.push({ backup, until });
  }
  return pins;
}

function parseUntil(until: unknown, name: string): Pin['until'] | undefined {
  if (until === 'no longer') return undefined;
  if (until === 'for ever') return until;
  const date = new Date(String(until));
  if (Number.isNaN(date.getTime())) throw new CorruptError(`"${name}" does not say until when it pins`);
  return date;
}
