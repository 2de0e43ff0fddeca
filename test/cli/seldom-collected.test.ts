/** That V8 still knows the word: it would say in PostgreSQL's log, once for each segment, that it does not. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, it } from 'vitest';
import { checkout } from '../support/installation.ts';

it.each([
  ['as Node.js is', ''],
  ['where Node.js cannot give memory back', 'delete ArrayBuffer.prototype.transfer;'],
])('says nothing, %s', (_, before) => {
  const module = pathToFileURL(join(checkout, 'src/cli/seldom-collected.ts')).href;
  const script = `${before} (await import('${module}')).collectSeldom(); console.log('done');`;
  const words = ['--import', 'tsx', '--input-type=module', '-e', script];
  const { stdout, stderr } = spawnSync(process.execPath, words, { cwd: checkout, encoding: 'utf8' });
  expect([stdout, stderr]).toEqual(['done\n', '']);
});
