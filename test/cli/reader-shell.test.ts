/** bin/reader.sh: whoever becomes the parent of what goes on in the background sees it end with 0, and it begins only where it may (H5). */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { temporaryFolder } from '../support/folders.ts';
import { launcher, run } from '../support/run.ts';

/** Gets the orphan, tells it to begin, ends it by a signal or not, and prints the status that it sees; or that there was none. */
const parent = `import ctypes, os, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
word, signal, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
reading, writing = os.pipe()
os.dup2(reading, 3)
first = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[3])
line = first.stdout.readline()
print('first', first.wait())
if line:
    os.write(writing, word.encode())
    os.close(writing)
    while signal and not os.path.exists('running'): time.sleep(0.01)
    if signal: os.kill(int(line), signal)
    print('orphan', os.waitstatus_to_exitcode(os.waitpid(int(line), 0)[1]))
`;

async function adopt(command: string, { word = 'begin\n', signal = 0, name = 'python3' } = {}): Promise<string> {
  const folder = temporaryFolder();
  const postmaster = spawn('sleep', ['3600'], { stdio: 'ignore' });
  onTestFinished(() => void postmaster.kill('SIGKILL'));
  writeFileSync(join(folder, 'postmaster.pid'), `${postmaster.pid}\n`);
  const script = `import ctypes\nctypes.CDLL(None).prctl(15, b'${name}', 0, 0, 0)\n${parent}`;
  const shell = ['/bin/sh', join(launcher('wal-t'), '../reader.sh'), 'begin', folder, '/bin/sh', '-c', command];
  const { stdout, stderr } = await run('python3', ['-c', script, word, String(signal), ...shell], { cwd: folder });
  expect(stderr).toBe('');
  return stdout;
}

it.each([
  ['ends with 0', 'exit 0'],
  ['ends with 1', 'exit 1'],
  ['ends with an error', 'exit 70'],
  ['is killed, as for want of memory', 'kill -s KILL $$'],
  ['dies by a signal of its own', 'kill -s USR2 $$'],
  ['cannot be started', 'exec /nowhere/node'],
])('H5: ends with 0 when its command %s', async (_, command) => {
  expect(await adopt(command)).toBe('first 0\norphan 0\n');
});

it.each([1, 2, 3, 10, 12, 14, 15])('H5: ends with 0 by signal %s', async (signal) => {
  expect(await adopt(': >running; sleep 1', { signal })).toBe('first 0\norphan 0\n');
});

it.each(['', 'leave\n'])('begins nothing when it is told "%s"', async (word) => {
  expect(await adopt(': >running; exit 3', { word })).toBe('first 0\norphan 0\n');
});

it.each(['postgres', 'edb-postgres', 'postmaster'])('H5: is none where %s becomes its parent', async (name) => {
  expect(await adopt('exit 0', { name })).toBe('first 0\n');
});
