/** Waits for something to become true, never for a fixed time. */
import { setTimeout as pause } from 'node:timers/promises';

export async function waitFor(what: string, isTrue: () => Promise<boolean> | boolean, limitMs = 60_000): Promise<void> {
  const started = performance.now();
  for (;;) {
    const asked = performance.now();
    if (await isTrue()) return;
    const now = performance.now();
    if (now - started > limitMs) throw new Error(`waited ${limitMs / 1000} s in vain for ${what}`);
    // whoever asks a server, or looks at all processes, leaves most of the time to what is waited for
    await pause(Math.min(250, Math.max(20, 5 * (now - asked))));
  }
}
