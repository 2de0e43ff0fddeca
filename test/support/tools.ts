/** Foreign tools that some tests compare with. Missing, they fail CI and are a named skip elsewhere. */
import { spawnSync } from 'node:child_process';

/** For `it.skipIf(!hasTool('zstd'))`; a path or a name looked up in PATH. @throws when CI lacks it. */
export function hasTool(command: string): boolean {
  const { status } = spawnSync('sh', ['-c', 'command -v -- "$1"', 'sh', command], { stdio: 'ignore' });
  return orFailInCi(status === 0, `the tool ${command} is missing`);
}

/** The same for a condition of another kind, such as being root. */
export function orFailInCi(met: boolean, otherwise: string): boolean {
  if (!met && process.env.CI === 'true') throw new Error(`${otherwise}, and CI must not skip`);
  if (!met) process.stderr.write(`skipped: ${otherwise}\n`);
  return met;
}
