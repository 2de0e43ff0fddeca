// One bundle for each executable: dist/<name>.mjs, from src/cli/main/<name>.ts.
import { readdirSync, renameSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const main = join(root, 'src/cli/main');
const dist = join(root, 'dist');
const [major, minor] = [20, 19];

// An old node must say so by itself; bundled CommonJS needs a require.
const banner = `import{createRequire as __createRequire}from"node:module";
const __node=process.versions.node.split(".").map(Number);
if(__node[0]<${major}||(__node[0]===${major}&&__node[1]<${minor})){
process.stderr.write("wal-t: error: Node.js "+process.versions.node+" is too old, ${major}.${minor} is needed\\n"+
"wal-t: hint: Set WALT_NODE to a newer one.\\n");process.exit(3)}
const require=__createRequire(import.meta.url);`;

for (const file of readdirSync(main)) {
  const name = basename(file, '.ts');
  const fresh = join(dist, `.${name}.${process.pid}.mjs`);
  const { metafile } = await build({
    entryPoints: [join(main, file)],
    outfile: fresh,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: `node${major}.${minor}`,
    banner: { js: banner },
    external: ['@mongodb-js/zstd/bindings.js'],
    // an uncaught error prints the line it stands in, into PostgreSQL's log
    minify: true,
    keepNames: true,
    lineLimit: 160,
    legalComments: 'none',
    metafile: true,
    logLevel: 'warning',
  });
  if (process.argv.includes('--list')) {
    process.stdout.write(`${JSON.stringify({ name, inputs: Object.keys(metafile.inputs).sort() })}\n`);
    rmSync(fresh);
  } else {
    renameSync(fresh, join(dist, `${name}.mjs`)); // whole or not at all: PostgreSQL may be calling it right now
  }
}
