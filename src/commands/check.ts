/** wal-t check: one look at all that breaks at night. Each check is a file of check/; one that fails does not keep another from being done. */
import { UsageError, WalTError } from '../errors.ts';
import { checkLimitMs } from '../limits.ts';
import { archive } from './check/archive.ts';
import { clock } from './check/clock.ts';
import { encryption } from './check/encryption.ts';
import { type Check, type Finding, failed, type Level, NotLookedAt } from './check/finding.ts';
import { keyCopies } from './check/key-copies.ts';
import { settings } from './check/settings.ts';
import { storage } from './check/storage.ts';
import { type CheckLimits, Subject } from './check/subject.ts';
import type { Context } from './context.ts';

/** In the order in which they are done and told: what the others need comes first. */
export const checks: readonly Check[] = [settings, storage, clock, encryption, keyCopies, archive];

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
  try {
    for (const one of checks.filter(({ name }) => asked(name) && !skip.includes(name))) {
      const found = await lookAt(one, subject);
      findings.push(...found.map((finding) => ({ check: one.name, ...finding })));
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

async function lookAt(one: Check, subject: Subject): Promise<readonly Finding[]> {
  try {
    const found = await inTime(one.look(subject));
    return Array.isArray(found) ? found : [found as Finding];
  } catch (error) {
    if (error instanceof NotLookedAt) return [{ level: 'skipped', message: error.message }];
    if (error instanceof WalTError) return [failed(error.message, { detail: error.detail, hint: error.hint })];
    throw error;
  }
}

/** A check that hangs must not keep the others from being told. What it waits for ends with the process. */
async function inTime<T>(looking: Promise<T>): Promise<T | Finding> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Finding>((resolve) => {
    const message = `there was no answer within ${checkLimitMs / 1000} s`;
    timer = setTimeout(
      () => resolve(failed(message, { hint: 'Something hangs: look at what it asks.' })),
      checkLimitMs,
    );
  });
  try {
    return await Promise.race([looking, late]);
  } finally {
    clearTimeout(timer);
  }
}

function expectKnown(name: string): void {
  if (checks.some((one) => one.name === name)) return;
  throw new UsageError(`there is no check "${name}"`, {
    hint: `There are ${checks.map((one) => one.name).join(', ')}.`,
  });
}
