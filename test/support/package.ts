/** Packages built for tests: compressed little, otherwise the ones that `npm run package` makes. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from './installation.ts';
import { run } from './run.ts';

/** Packs what was built last into `out`. @returns the paths of the files by what follows the version in their names */
export async function packInto(out: string, words: readonly string[]): Promise<(suffix: string) => string> {
  const script = join(checkout, 'scripts/package.ts');
  const env = { HOME: process.env.HOME ?? out }; // where npm keeps what it has fetched
  const options = { cwd: checkout, asRoot: true, env };
  const tsx = join(checkout, 'node_modules/.bin/tsx');
  const { code, stderr } = await run(tsx, [script, '--quick', '--out', out, ...words], options);
  if (code !== 0) throw new Error(`the package could not be built: ${stderr}`);
  return (suffix) => {
    const name = readdirSync(out).find((file) => file.endsWith(suffix));
    if (name === undefined) throw new Error(`there is no package "*${suffix}"`);
    return join(out, name);
  };
}
