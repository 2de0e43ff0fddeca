// Runs at the end of every `npm ci`. Without the development packages there is nothing to build with, and a built tree is left as it is.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';

function hasBundler() {
  try {
    createRequire(import.meta.url).resolve('esbuild');
    return true;
  } catch {
    return false;
  }
}

if (hasBundler()) {
  await import('./build.mjs');
} else if (!existsSync(new URL('../dist/wal-push.mjs', import.meta.url))) {
  process.stderr.write('wal-t: dist/ is not built and cannot be without the development packages: run "npm ci" once\n');
  process.exitCode = 1;
}
