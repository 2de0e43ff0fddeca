// One bundle for each executable: dist/<name>.mjs, from src/cli/main/<name>.ts. What only some runs need (the S3 client, age's
// text forms) stands in dist/chunks/, loaded on demand.
import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const main = join(root, 'src/cli/main');
const dist = join(root, 'dist');
const chunks = join(dist, 'chunks');
const [major, minor] = [20, 19];

// An old node must say so by itself; bundled CommonJS needs a require.
const banner = `import{createRequire as __createRequire}from"node:module";
const __node=process.versions.node.split(".").map(Number);
if(__node[0]<${major}||(__node[0]===${major}&&__node[1]<${minor})){
process.stderr.write("wal-t: error: Node.js "+process.versions.node+" is too old, ${major}.${minor} is needed\\n"+
"wal-t: hint: Set WALT_NODE to a newer one.\\n");process.exit(3)}
const require=__createRequire(import.meta.url);`;

/**
 * An `import` of these makes Node.js fill in every name that they export, `WebSocket` among them, for which newer ones load all of undici:
 * a tenth of the time that a command over S3 needs to start.
 */
const lazyBuiltins = {
  name: 'lazy-builtins',
  setup: (builder) => {
    const namespace = 'lazy-builtin';
    builder.onResolve({ filter: /^(?:node:)?https?$/ }, ({ path }) => ({ path: path.replace('node:', ''), namespace }));
    builder.onLoad({ filter: /./, namespace }, ({ path }) => ({
      contents: `module.exports = process.getBuiltinModule('node:${path}');`,
    }));
  },
};

const isBuiltin = (input) => input.startsWith('lazy-builtin:');

async function bundle(name) {
  return build({
    plugins: [lazyBuiltins],
    absWorkingDir: root,
    entryPoints: [join(main, `${name}.ts`)],
    outdir: dist,
    entryNames: '[name]',
    chunkNames: `chunks/${name}-[hash]`,
    outExtension: { '.js': '.mjs' },
    write: false,
    bundle: true,
    splitting: true,
    platform: 'node',
    format: 'esm',
    target: `node${major}.${minor}`,
    banner: { js: banner },
    // native, or tried by `pg` and done without
    external: ['@mongodb-js/zstd/bindings.js', '@node-rs/crc32', 'pg-native'],
    // an uncaught error prints the line it stands in, into PostgreSQL's log
    minify: true,
    keepNames: true,
    lineLimit: 160,
    legalComments: 'none',
    metafile: true,
    logLevel: 'warning',
  });
}

/** Whole or not at all: PostgreSQL may be calling it right now. */
function replace(path, contents) {
  const fresh = join(dirname(path), `.${basename(path)}.${process.pid}`);
  writeFileSync(fresh, contents);
  renameSync(fresh, path);
}

/** The modules that are loaded at once, and those that are loaded on demand. */
function list(name, { outputs }) {
  const start = Object.keys(outputs).find((path) => basename(path) === `${name}.mjs`);
  const atOnce = new Set([start]);
  for (const path of atOnce) {
    for (const imported of outputs[path].imports)
      if (imported.kind === 'import-statement' && !imported.external) atOnce.add(imported.path);
  }
  const inputsOf = (paths) =>
    [...new Set(paths.flatMap((path) => Object.keys(outputs[path].inputs)))]
      .filter((input) => !isBuiltin(input))
      .sort();
  const later = Object.keys(outputs).filter((path) => !atOnce.has(path));
  return { name, inputs: inputsOf([...atOnce]), onDemand: inputsOf(later) };
}

const names = readdirSync(main).map((file) => basename(file, '.ts'));
const results = await Promise.all(names.map(async (name) => ({ name, ...(await bundle(name)) })));
if (process.argv.includes('--list')) {
  for (const { name, metafile } of results) process.stdout.write(`${JSON.stringify(list(name, metafile))}\n`);
} else {
  mkdirSync(chunks, { recursive: true });
  const files = results.flatMap(({ outputFiles }) => outputFiles);
  const isChunk = ({ path }) => dirname(path) === chunks;
  // what an entry imports is there before the entry, and what an old one imported goes after it
  for (const file of [...files.filter(isChunk), ...files.filter((one) => !isChunk(one))])
    replace(file.path, file.contents);
  const current = new Set(files.map(({ path }) => basename(path)));
  for (const old of readdirSync(chunks)) if (!current.has(old)) rmSync(join(chunks, old));
}
