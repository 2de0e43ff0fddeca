/** Files that appear whole or not at all, fsynced before they are named, without left-overs of the dead. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type Bytes, bytesOf } from '../src/bytes.ts';
import { makeFolders, replaceFile, syncFolder, WriteBehind, writeNewFile } from '../src/durable-file.ts';
import { temporaryFolder } from './support/folders.ts';
import { checkout } from './support/installation.ts';
import { suffixOf } from './support/left-overs.ts';
import { orFailInCi } from './support/tools.ts';
import { waitFor } from './support/wait.ts';

const modeOf = (path: string): number => statSync(path).mode & 0o7777;

async function* failingAfter(...chunks: readonly string[]): Bytes {
  for (const chunk of chunks) yield Buffer.from(chunk);
  throw new Error('the source failed');
}

/** A process that runs TypeScript which may import `durable-file.ts` as `durable`. */
function script(body: string): string[] {
  const module = pathToFileURL(join(checkout, 'src/durable-file.ts')).href;
  return ['--import', 'tsx', '--input-type=module', '-e', `const durable = await import('${module}');\n${body}`];
}

describe('makeFolders', () => {
  it('makes what is missing, and finds what is there', async () => {
    const root = temporaryFolder();
    const folder = join(root, 'a', 'b', 'c');
    await makeFolders(folder, 0o700);
    expect([join(root, 'a'), folder].map(modeOf)).toEqual([0o700, 0o700]);
    await makeFolders(folder, 0o750);
    expect(modeOf(folder)).toBe(0o700);
    await makeFolders(Buffer.from(join(root, 'a', '\xe9', 'x'), 'latin1'), 0o700);
    expect(readdirSync(join(root, 'a'), { encoding: 'latin1' }).sort()).toEqual(['b', '\xe9']);
    await makeFolders('/', 0o700);
  });

  it('ends with the system’s error where none can be', async () => {
    const root = temporaryFolder();
    writeFileSync(join(root, 'file'), '');
    for (const folder of ['file', 'file/a', 'file/a/b']) {
      await expect(makeFolders(join(root, folder), 0o700)).rejects.toMatchObject({
        code: folder === 'file' ? 'EEXIST' : 'ENOTDIR',
      });
    }
  });

  it.skipIf(process.platform !== 'linux')(
    'ends where the system says of every new name that it is not there',
    async () => {
      await expect(makeFolders('/proc/nowhere/archive', 0o700)).rejects.toMatchObject({ code: 'ENOENT' });
    },
  );
});

describe('replaceFile', () => {
  it('makes a file, replaces one, and leaves nothing else', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'RECOVERYXLOG');
    await replaceFile(path, bytesOf(Buffer.from('old, and longer')));
    await replaceFile(path, bytesOf(Buffer.from('ne'), Buffer.alloc(0), Buffer.from('w')));
    expect(readFileSync(path, 'utf8')).toBe('new');
    expect(readdirSync(folder)).toEqual(['RECOVERYXLOG']);
  });

  it('changes nothing when its source fails, at whatever point', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'file');
    for (const before of [[], ['file']]) {
      for (const written of [[], ['one'], ['one', 'two']]) {
        await expect(replaceFile(path, failingAfter(...written))).rejects.toThrow('the source failed');
        expect(readdirSync(folder)).toEqual(before);
      }
      if (before.length === 0) writeFileSync(path, 'what was there');
    }
    expect(readFileSync(path, 'utf8')).toBe('what was there');
  });

  it('changes nothing where it cannot name the file', async () => {
    const folder = temporaryFolder();
    mkdirSync(join(folder, 'file'));
    await expect(replaceFile(join(folder, 'file'), bytesOf(Buffer.from('x')))).rejects.toMatchObject({
      message: expect.stringMatching(/is not a regular file$/),
    });
    expect(readdirSync(folder)).toEqual(['file']);
    await expect(replaceFile(join(folder, 'none/file'), bytesOf())).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('shows every reader one whole content, never a mixture or a part', async () => {
    const path = join(temporaryFolder(), 'file');
    const contents = ['a', 'b'].map((letter) => Buffer.alloc(200_000, letter));
    await replaceFile(path, bytesOf(...contents.slice(0, 1)));
    let done = false;
    const seen = new Set<string>();
    const reading = (async () => {
      while (!done) {
        const found = readFileSync(path);
        seen.add(`${found.length} ${[...new Set(found.toString('latin1'))].join('')}`);
        await new Promise(setImmediate);
      }
    })();
    for (let round = 0; round < 20; round += 1) {
      const content = contents[round % 2] ?? Buffer.alloc(0);
      await replaceFile(path, bytesOf(content.subarray(0, 70_000), content.subarray(70_000)));
    }
    done = true;
    await reading;
    for (const found of seen) expect(['200000 a', '200000 b']).toContain(found);
  });

  it('gives the mode that was asked for, whatever the old file had', async () => {
    const folder = temporaryFolder();
    const umask = process.umask();
    const path = join(folder, 'file');
    await replaceFile(path, bytesOf(Buffer.from('x')));
    expect(modeOf(path)).toBe(0o600);
    await replaceFile(path, bytesOf(Buffer.from('x')), 0o640);
    expect(modeOf(path)).toBe(0o640 & ~umask);
    await replaceFile(path, bytesOf(Buffer.from('x')));
    expect(modeOf(path)).toBe(0o600);
  });

  it('survives a kill at any moment, and the next one removes what was left', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'file');
    writeFileSync(path, 'what was there');
    const body = `async function* body() { yield Buffer.from('half'); await new Promise((r) => setTimeout(r, 1e8)); }
      await durable.replaceFile(${JSON.stringify(path)}, body());`;
    const child = spawn(process.execPath, script(body), { cwd: checkout, stdio: 'ignore' });
    onTestFinished(() => void child.kill('SIGKILL'));
    const ended = once(child, 'exit');
    const others = (): string[] => readdirSync(folder).filter((name) => name !== 'file');
    await waitFor('the child to have written', () =>
      others().some((name) => statSync(join(folder, name)).size === 'half'.length),
    );
    const [ofChild] = others();

    await replaceFile(join(folder, 'other'), bytesOf(Buffer.from('x')));
    await replaceFile(path, bytesOf(Buffer.from('by a second process')));
    expect(others()).toEqual(expect.arrayContaining([ofChild])); // it lives: its file is its own

    child.kill('SIGKILL');
    await ended;
    expect(readFileSync(path, 'utf8')).toBe('by a second process');
    await replaceFile(path, bytesOf(Buffer.from('after the kill')));
    expect(readdirSync(folder).sort()).toEqual(['file', 'other']);
    expect(readFileSync(path, 'utf8')).toBe('after the kill');
  });

  it('removes left-overs of the dead alone: not of the living, not of other files', async () => {
    const folder = temporaryFolder();
    const { pid: dead } = spawnSync('true');
    const kept = [
      `file.wal-t-${suffixOf(process.ppid)}`,
      `other.wal-t-${suffixOf(dead)}`,
      'file.wal-t',
      'file.wal-t-foo',
      `file.wal-t-${suffixOf(dead, '1')}`, // of another container: just written
      'file-2',
      'x',
    ];
    const ownOfThisRun = 'file';
    const left = [`file.wal-t-${suffixOf(dead)}`, `file.wal-t-${suffixOf(process.pid)}`]; // an earlier process of our id
    for (const name of [...kept, ...left]) writeFileSync(join(folder, name), 'x');
    await replaceFile(join(folder, 'file'), bytesOf(Buffer.from('x')));
    expect(readdirSync(folder).sort()).toEqual([...kept, ownOfThisRun].sort());
  });

  it('lets several of one process write the same file: one of them wins, none fails', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'file');
    const contents = Array.from({ length: 8 }, (_, index) => String(index).repeat(1000));
    await Promise.all(contents.map((content) => replaceFile(path, bytesOf(Buffer.from(content)))));
    expect(contents).toContain(readFileSync(path, 'utf8'));
    expect(readdirSync(folder)).toEqual(['file']);
  });
});

describe('writeNewFile', () => {
  it('never touches a file that is there', async () => {
    const path = join(temporaryFolder(), 'file');
    writeFileSync(path, 'what was there');
    await expect(writeNewFile(path, bytesOf(Buffer.from('x')))).rejects.toMatchObject({ code: 'EEXIST' });
    expect(readFileSync(path, 'utf8')).toBe('what was there');
  });
});

describe('what is flushed while it is written', () => {
  const mebibyte = 1024 * 1024;

  it('waits for so many bytes, is one at a time, and has ended at the end', async () => {
    const running: (() => void)[] = [];
    let begun = 0;
    const behind = new WriteBehind(() => {
      begun += 1;
      return new Promise((resolve) => running.push(resolve));
    });
    for (let written = 0; written < 15; written += 1) behind.wrote(mebibyte);
    expect(begun).toBe(0);
    for (let written = 0; written < 40; written += 1) behind.wrote(mebibyte);
    expect(begun).toBe(1);
    let ended = false;
    const end = behind.end().then(() => {
      ended = true;
    });
    await new Promise(setImmediate);
    expect(ended).toBe(false);
    running.shift()?.();
    await end;
    behind.wrote(mebibyte);
    expect(begun).toBe(2);
  });

  it('tells of its failure at the next byte and at the end, again and again', async () => {
    const behind = new WriteBehind(() => Promise.reject(new Error('the disk is broken')));
    behind.wrote(16 * mebibyte);
    await expect(behind.end()).rejects.toThrow('the disk is broken');
    expect(() => behind.wrote(1)).toThrow('the disk is broken');
    await expect(behind.end()).rejects.toThrow('the disk is broken');
  });
});

describe('syncFolder', () => {
  it('says when the folder is not there', async () => {
    const folder = temporaryFolder();
    await mkdir(join(folder, 'there'));
    expect(await syncFolder(join(folder, 'there'))).toBeUndefined();
    await expect(syncFolder(join(folder, 'gone'))).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

const traceable = spawnSync('strace', ['-o', '/dev/null', 'true']).status === 0;

it.skipIf(!orFailInCi(traceable, 'strace cannot trace here'))(
  'fsyncs the file before it is named, and the folder after',
  () => {
    const folder = temporaryFolder();
    const path = join(folder, 'file');
    const trace = join(folder, 'trace');
    const body = `await durable.replaceFile(${JSON.stringify(path)}, [Buffer.from('x')]);`;
    const calls = ['-f', '-y', '-o', trace, '-e', 'trace=write,pwrite64,fsync,rename,renameat,renameat2'];
    const { status, stderr } = spawnSync('strace', [...calls, process.execPath, ...script(body)], { cwd: checkout });
    expect([status, stderr.toString()]).toEqual([0, '']);
    const found = readFileSync(trace, 'utf8')
      .split('\n')
      .filter((line) => line.includes(folder) && !line.includes('-e'))
      .map((line) => /(?:\d+ +)?(\w+)\((?:\d+<)?([^>"]*)/.exec(line)?.slice(1) ?? [])
      .map(([call = '', on = '']) => `${call.replace(/^pwrite64/, 'write').replace(/^rename.*/, 'rename')} ${on}`);
    const temporary = expect.stringContaining('/file.wal-t-');
    expect(found.map((call) => call.split(' ')[0])).toEqual(['write', 'fsync', 'rename', 'fsync']);
    expect(found[1]).toEqual(temporary);
    expect(found[3]).toBe(`fsync ${folder}`);
  },
);

it.skipIf(!orFailInCi(traceable, 'strace cannot trace here'))(
  'does not believe an fsync when a flush before it has failed: the system tells of an error once',
  () => {
    const path = join(temporaryFolder(), 'file');
    const body = `
      const chunks = Array.from({ length: 20 }, () => Buffer.alloc(1024 * 1024));
      const said = await durable.writeNewFile(${JSON.stringify(path)}, chunks).catch((error) => error.code);
      process.stdout.write(String(said));`;
    const calls = ['-f', '-o', '/dev/null', '-e', 'inject=fdatasync:error=EIO'];
    const { stdout } = spawnSync('strace', [...calls, process.execPath, ...script(body)], { cwd: checkout });
    expect(stdout.toString()).toBe('EIO');
  },
);
