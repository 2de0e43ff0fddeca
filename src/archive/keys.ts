/** What is stored under which key. The only place where keys are made. */
import { strict as assert } from 'node:assert';
import type { ObjectKind } from '../codec/header.ts';
import { formatHistoryName, formatTimeline, type WalFileName } from '../postgres/wal-file-name.ts';

export const repositoryKey = 'repository.json';

const clusterDocument = 'cluster.json';

export function clusterKey(systemIdentifier: string): string {
  return `${systemIdentifier}/${clusterDocument}`;
}

/** The system identifier at the beginning of a key, if it begins with one. */
export function systemIdentifierOf(key: string): string | undefined {
  return /^(\d{1,20})\//.exec(key)?.[1];
}

/** The name of an archived file's object: its key below the system identifier. */
export function walObjectName(file: WalFileName): string {
  if (file.kind === 'history') return `wal/history/${file.name}`;
  const timeline = formatTimeline(file.timeline);
  return `wal/${timeline}/${file.name.slice(0, 16)}/${file.name}`;
}

/** The kind of an archived file's object; the names are PostgreSQL's. */
export function walObjectKind(file: WalFileName): ObjectKind {
  return file.kind;
}

/** Begins the key of every archived file: those of the timelines in their order, then the histories. */
export function walPrefix(systemIdentifier: string): string {
  return `${systemIdentifier}/wal/`;
}

/** Begins the key of every segment, partial segment and backup history file of a timeline. */
export function timelinePrefix(systemIdentifier: string, timeline: number): string {
  return `${systemIdentifier}/wal/${formatTimeline(timeline)}/`;
}

/** Begins the key of every timeline history file. */
export function historyPrefix(systemIdentifier: string): string {
  return `${systemIdentifier}/wal/history/`;
}

export function historyKey(systemIdentifier: string, timeline: number): string {
  return `${historyPrefix(systemIdentifier)}${formatHistoryName(timeline)}`;
}

/** The name of a backup's manifest: its commit point. */
export function manifestName(id: string): string {
  return `manifest/${id}`;
}

/** The name of a backup's list of files. */
export function filesName(id: string): string {
  return `files/${id}`;
}

/** The name of a backup's part, from 1. */
export function partName(id: string, number: number): string {
  return `part/${id}/${String(number).padStart(7, '0')}`;
}

/** The number of the part that a key below `part/<id>/` is of; undefined when it is of none. */
export function partNumberOf(key: string): number | undefined {
  const digits = /\/(\d{7,9})$/.exec(key)?.[1];
  const number = Number(digits);
  return digits !== undefined && number > 0 && digits === String(number).padStart(7, '0') ? number : undefined;
}

/** What a backup says of itself while it is taken: numbered signs of life, then how it ended. */
export function leaseName(id: string, record: number | 'closed' | 'failed'): string {
  return `lease/${id}/${typeof record === 'number' ? String(record).padStart(6, '0') : record}`;
}

/** The name of a record that pins a backup, or no longer does: of several the last one counts. */
export function pinName(id: string, setAt: Date): string {
  return `pin/${id}/${compactTime(setAt)}`;
}

/** The name of what a deletion is about to remove. */
export function planName(madeAt: Date, random: string): string {
  return `plan/${compactTime(madeAt)}-${random}`;
}

/** The name of what a verification of all backups found. */
export function verificationName(at: Date, deep: boolean, random: string): string {
  return `verification/${compactTime(at)}-${deep ? 'deep' : 'shallow'}-${random}`;
}

/** `20261120T083000123Z`: in its own order. */
function compactTime(date: Date): string {
  return date.toISOString().replaceAll(/[-:.]/g, '');
}

/** Begins the key of every object of one kind: `manifest/`, `part/` … */
export function kindPrefix(
  systemIdentifier: string,
  kind: 'manifest' | 'files' | 'part' | 'lease' | 'pin' | 'plan' | 'verification',
) {
  return `${systemIdentifier}/${kind}/`;
}

/** The key of the object `name` of a cluster. */
export function objectKey(systemIdentifier: string, name: string): string {
  assert(/^\d{1,20}$/.test(systemIdentifier), `not a system identifier: ${systemIdentifier}`);
  return `${systemIdentifier}/${name}`;
}
