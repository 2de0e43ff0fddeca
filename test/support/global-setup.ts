/** Runs once before and after all tests. */
import { prepareInstallation } from './installation.ts';

let undo = (): void => undefined;

export function setup(): void {
  undo = prepareInstallation();
}

export function teardown(): void {
  undo();
}
