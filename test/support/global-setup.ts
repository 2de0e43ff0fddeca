/** Runs once before and after all tests. */
import { prepareTemplates } from './cluster-template.ts';
import { prepareInstallation } from './installation.ts';

const undo: (() => void)[] = [];

export function setup(): void {
  undo.push(prepareInstallation(), prepareTemplates());
}

export function teardown(): void {
  for (const one of undo) one();
}
