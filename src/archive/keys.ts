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

/** The key of the object `name` of a cluster. */
export function objectKey(systemIdentifier: string, name: string): string {
  assert(/^\d{1,20}$/.test(systemIdentifier), `not a system identifier: ${systemIdentifier}`);
  return `${systemIdentifier}/${name}`;
}
