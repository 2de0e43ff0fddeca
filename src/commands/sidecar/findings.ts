/** What the jobs have found, from what they print: for the metrics, and lines of the log where something is wrong. */
import type { Log } from '../../log.ts';
import type { BackupList, BackupRow } from '../backup-list.ts';
import type { CheckResult } from '../check.ts';
import type { VerifyResult } from '../verify.ts';
import type { WalList } from '../wal-list.ts';
import type { WindowsResult } from '../windows.ts';
import { type PrintedJson, parsePrinted } from './archive-view.ts';
import type { JobName } from './jobs.ts';
import type { FinishedRun } from './scheduler.ts';

/** Members are undefined until they were found out. Times in milliseconds since 1970. */
export interface Findings {
  /** Oldest first. */
  backups?: readonly BackupRow[];
  wal?: PrintedJson<WalList>;
  windows?: PrintedJson<WindowsResult>;
  readonly verified: Map<JobName, { readonly endedAt: number; readonly restorable: number; readonly broken: number }>;
  readonly deleted: { objects: number; bytes: number };
  check?: PrintedJson<CheckResult>;
}

export function noFindings(): Findings {
  return { verified: new Map(), deleted: { objects: 0, bytes: 0 } };
}

/** Takes over what a run has printed. What cannot be read leaves what was known before. */
export function takeOver(findings: Findings, { name, endedAt, printed }: FinishedRun, log: Log): void {
  const [first = '', second = '', third = ''] = printed;
  switch (name) {
    case 'look': {
      const backups = parsePrinted<BackupList['backups']>(first);
      if (backups !== undefined) findings.backups = backups;
      const [wal, windows] = [parsePrinted<WalList>(second), parsePrinted<WindowsResult>(third)];
      if (wal !== undefined) findings.wal = wal;
      if (windows !== undefined) findings.windows = windows;
      break;
    }
    case 'verify':
    case 'verify-deep': {
      const result = parsePrinted<VerifyResult>(first);
      if (result !== undefined) takeOverVerdicts(findings, name, result, { endedAt, log });
      break;
    }
    case 'delete': {
      const removed = parsePrinted<{ removed?: { objects: number; bytes: number } }>(first)?.removed;
      findings.deleted.objects += removed?.objects ?? 0;
      findings.deleted.bytes += removed?.bytes ?? 0;
      break;
    }
    case 'check':
      takeOverCheck(findings, parsePrinted<CheckResult>(first), log);
      break;
    case 'backup':
      break; // the look that follows it tells
  }
}

function takeOverVerdicts(
  { verified }: Findings,
  name: JobName,
  { verdicts }: PrintedJson<VerifyResult>,
  { endedAt, log }: { readonly endedAt: number; readonly log: Log },
): void {
  const broken = verdicts.filter(({ isRestorable }) => !isRestorable);
  verified.set(name, { endedAt, restorable: verdicts.length - broken.length, broken: broken.length });
  for (const { id, reasons } of broken) log.error(`${name}: backup ${id} is not restorable: ${reasons.join('; ')}`);
}

/** A finding that stays is told once. */
function takeOverCheck(findings: Findings, result: PrintedJson<CheckResult> | undefined, log: Log): void {
  if (result === undefined) return;
  const before = new Set(findings.check?.findings.map(nameOf));
  for (const finding of result.findings.filter((one) => !before.has(nameOf(one)))) {
    const { check, level, message, hint, detail } = finding;
    if (level === 'failed') log.error(`check: ${check}: ${message}`, { detail, hint });
    if (level === 'warning') log.warning(`check: ${check}: ${message}`, { detail, hint });
    if (level === 'ok' && findings.check !== undefined) log.info(`check: ${check}: ${message}`);
  }
  findings.check = result;
}

function nameOf({ check, level }: PrintedJson<CheckResult>['findings'][number]): string {
  return `${check} ${level}`;
}
