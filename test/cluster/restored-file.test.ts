/** Files of a restore: made new, with their attributes; what the disk says of one is never lost. */
import { spawnSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, it } from 'vitest';
import { toBytePath } from '../../src/byte-path.ts';
import { makeFile, syncFiles } from '../../src/cluster/restored-file.ts';
import { temporaryFolder } from '../support/folders.ts';
import { checkout } from '../support/installation.ts';
import { orFailInCi } from '../support/tools.ts';

const attributes = { mode: 0o640, mtimeNs: 1_700_000_000_000_000_000n, owner: undefined };

it('has content, mode and time when it is closed, also when some of it was flushed before', async () => {
  const path = join(temporaryFolder(), 'file');
  const file = makeFile(toBytePath(path), attributes);
  const chunks = Array.from({ length: 40 }, (_, index) => Buffer.alloc(1024 * 1024, index));
  for (const chunk of chunks) file.write(chunk);
  await file.end();
  await syncFiles([toBytePath(path)]);
  expect(readFileSync(path).equals(Buffer.concat(chunks))).toBe(true);
  expect(statSync(path)).toMatchObject({ mode: 0o100640, mtimeMs: 1_700_000_000_000 });
});

it('is never one that is there', () => {
  const path = join(temporaryFolder(), 'file');
  writeFileSync(path, 'what was there');
  expect(() => makeFile(toBytePath(path), attributes)).toThrow(/Something else|EEXIST|exists/);
  expect(readFileSync(path, 'utf8')).toBe('what was there');
});

const traceable = spawnSync('strace', ['-o', '/dev/null', 'true']).status === 0;

it.skipIf(!orFailInCi(traceable, 'strace cannot trace here'))(
  'fails when a flush has failed while it was written: the fsync that follows would know nothing of it',
  () => {
    const path = join(temporaryFolder(), 'file');
    const module = pathToFileURL(join(checkout, 'src/cluster/restored-file.ts')).href;
    const body = `
      const { makeFile, syncFiles } = await import('${module}');
      const file = makeFile(${JSON.stringify(path)}, { mode: 0o600, mtimeNs: 0n, owner: undefined });
      for (let written = 0; written < 20; written += 1) file.write(Buffer.alloc(1024 * 1024));
      const said = await file.end().then(() => syncFiles([${JSON.stringify(path)}])).catch((error) => error.message);
      process.stdout.write(String(said));`;
    const script = ['--import', 'tsx', '--input-type=module', '-e', body];
    const calls = ['-f', '-o', '/dev/null', '-e', 'inject=fdatasync:error=EIO'];
    const { stdout } = spawnSync('strace', [...calls, process.execPath, ...script], { cwd: checkout });
    expect(stdout.toString()).toMatch(/^could not write ".*file": /);
  },
);
