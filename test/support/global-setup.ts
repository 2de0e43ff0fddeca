/** Runs once before all tests. */
import { prepareInstallation } from './installation.ts';

export default function setup(): () => void {
  return prepareInstallation();
}
