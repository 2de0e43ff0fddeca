/** Waits for something to become true, never for a fixed time. */
import { setTimeout as pause } from 'node:timers/promises';

export async function waitFor(what: string, isTrue: () => Promise<boolean> | boolean, limitMs = 60_000): Promise<void> {
  const started = Date.now();
  while (!(await isTrue())) {
    if (Date.now() - started > limitMs) throw new Error(`waited ${limitMs / 1000} s in vain for ${what}`);
    await pause(20);
  }
}
