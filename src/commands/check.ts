/** wal-t check: one look at all that breaks at night. Each check is a file of check/; one that fails does not keep another from being done. */
import { UsageError, WalTError } from '../errors.ts';
import { checkAfterLateMs, checkLimitMs } from '../limits.ts';
import { archive } from './check/archive.ts';
import { archiveCommand } from './check/archive-command.ts';
import { archiver } from './check/archiver.ts';
import { archiving } from './check/archiving.ts';
import { backlog } from './check/backlog.ts';
import { backups } from './check/backups.ts';
import { checksums } from './check/checksums.ts';
import { clock } from './check/clock.ts';
import { encryption } from './check/encryption.ts';
import { failover } from './check/failover.ts';
import { type Check, type Finding, failed, type Level, NotLookedAt } from './check/finding.ts';
import { holes } from './check/holes.ts';
import { inTime, LateError } from './check/in-time.ts';
import { keyCopies } from './check/key-copies.ts';
import { pgWalSpace } from './check/pg-wal-space.ts';
import { privileges } from './check/privileges.ts';
import { roundTrip } from './check/round-trip.ts';
import { server } from './check/server.ts';
import { settings } from './check/settings.ts';
import { slots } from './check/slots.ts';
import { storage } from './check/storage.ts';
import { type CheckLimits, Subject } from './check/subject.ts';
import { verified } from './check/verified.ts';
import { wal } from './check/wal.ts';
import type { Context } from './context.ts';

/** In the order in which they are done and told: what the others need comes first. */
export const checks: readonly Check[] = [
  settings,
  storage,
  clock,
  encryption,
  keyCopies,
  archive,
  server,
  privileges,
  archiving,
  archiveCommand,
  archiver,
  backlog,
  pgWalSpace,
  slots,
  roundTrip,
  failover,
  wal,
  holes,
  backups,
  checksums,
  verified,
];

export interface CheckArguments extends CheckLimits {
  readonly dataDirectory?: string | undefined;
  /** Names of checks; all of them when empty. */
  readonly only: readonly string[];
  readonly skip: readonly string[];
}

export interface NamedFinding extends Finding {
  readonly check: string;
}

export interface CheckResult {
  /** The worst; `skipped` when nothing was looked at at all. */
  readonly level: Level;
  readonly findings: readonly NamedFinding[];
}

const worstFirst: readonly Level[] = ['failed', 'warning', 'ok', 'skipped'];

export async function check(context: Context, args: CheckArguments): Promise<CheckResult> {
  const { only, skip } = args;
  for (const name of [...only, ...skip]) expectKnown(name);
  const asked = (name: string) => only.length === 0 || only.includes(name);
  const subject = new Subject(context, {
    ...args,
    dataDirectory: args.dataDirectory ?? context.settings.dataDirectory ?? context.libpq.PGDATA,
    isDone: (name) => (skip.includes(name) ? 'left out' : asked(name) ? 'done' : 'not asked for'),
  });
  const findings: NamedFinding[] = [];
  let limitMs = checkLimitMs;
  try {
    for (const one of checks.filter(({ name }) => asked(name) && !skip.includes(name))) {
      const { found, isLate } = await lookAt(one, subject, limitMs);
      findings.push(...found.map((finding) => ({ check: one.name, ...finding })));
      if (isLate) limitMs = checkAfterLateMs; // what hangs for one may hang for the others
      context.signal.throwIfAborted();
    }
  } finally {
    await subject.close();
  }
  return { level: worstOf(findings), findings };
}

export function worstOf(findings: readonly Finding[]): Level {
  return worstFirst.find((level) => findings.some((finding) => finding.level === level)) ?? 'skipped';
}

async function lookAt(one: Check, subject: Subject, limitMs: number) {
  try {
    const found = await inTime(one.look(subject), limitMs);
    return { found: Array.isArray(found) ? (found as readonly Finding[]) : [found as Finding], isLate: false };
  } catch (error) {
    subject.context.signal.throwIfAborted();
    return { found: [findingOf(error)], isLate: error instanceof LateError };
  }
}

function findingOf(error: unknown): Finding {
  if (error instanceof NotLookedAt) return { level: 'skipped', message: error.message };
  if (error instanceof WalTError) return failed(error.message, { detail: error.detail, hint: error.hint });
  throw error;
}

function expectKnown(name: string): void {
  if (checks.some((one) => one.name === name)) return;
  throw new UsageError(`there is no check "${name}"`, {
    hint: `There are ${checks.map((one) => one.name).join(', ')}.`,
  });
}
