/**
 * The launchers in bin/, run by each shell that may be a /bin/sh, over installations whose Node.js or bundle behaves in every
 * way that is known: PostgreSQL gets no exit code that WAL-T did not mean. The bundles here are a few lines each; see also e2e/.
 */
import { type ChildProcess, spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { account, giveAway } from '../support/account.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { checkout, installation } from '../support/installation.ts';
import { type Ended, plainEnvironment, type RunOptions, run } from '../support/run.ts';
import { makeDataDirectory } from '../support/segment.ts';
import { hasTool, orFailInCi } from '../support/tools.ts';
import { waitFor } from '../support/wait.ts';

const isTorture = process.env.TORTURE === '1';
const realNode = [join(installation(), 'node/bin/node'), process.execPath].find(existsSync) ?? 'node';

/** What runs a launcher: a shell, or its own first line. */
interface Shell {
  readonly shell: string;
  readonly words: readonly string[];
}
const allShells: readonly Shell[] = [
  { shell: 'dash', words: ['dash'] },
  { shell: 'busybox sh', words: ['busybox', 'sh'] },
  { shell: 'bash --posix', words: ['bash', '--posix'] },
];
const shells = allShells.filter(({ words: [tool = ''] }) => hasTool(tool));
const shebang: Shell = { shell: '#!/bin/sh', words: [] };

/** Executables that only people and their scripts call: wal-t's bundle under another name, with its exit codes. */
const walTs = ['wal-t', 'basebackup-push', 'basebackup-fetch', 'backup-list'] as const;
/** Where a launcher runs and what of it: the three answers that PostgreSQL may get, and wal-t's. */
const roles = ['wal-push', 'wal-fetch', 'wal-fetch under standby.signal', ...walTs] as const;
type Role = (typeof roles)[number];
type Codes = Readonly<Record<Role, number>>;

function codes(push: number, fetch: number, standby: number, walT: number): Codes {
  return {
    'wal-push': push,
    'wal-fetch': fetch,
    'wal-fetch under standby.signal': standby,
    ...Object.fromEntries(walTs.map((name) => [name, walT])),
  } as Codes;
}
const failure = codes(70, 200, 70, 70);
const notRunnable = codes(3, 200, 3, 3);

let folder: string;
let primary: string;
let standby: string;

beforeAll(() => {
  folder = makeFolder();
  [primary, standby] = [join(folder, 'primary'), join(folder, 'standby')];
  for (const directory of [primary, standby]) {
    makeDataDirectory(directory);
    spawnSync('mkfifo', ['-m', '666', join(directory, 'pipe')]);
  }
  writeFileSync(join(standby, 'standby.signal'), '');
});
afterAll(() => removeFolder(folder));

let count = 0;

/** The launchers in a folder of their own, with spaces in its path, each with the same bundle; undefined: with none. */
function install(bundle: string | undefined, root = join(folder, `an installation ${++count}`)): string {
  cpSync(join(checkout, 'bin'), join(root, 'bin'), { recursive: true });
  mkdirSync(join(root, 'dist'));
  if (bundle !== undefined) {
    for (const name of ['wal-push', 'wal-fetch', 'wal-t']) writeFileSync(join(root, 'dist', `${name}.mjs`), bundle);
  }
  return root;
}

/** A folder where what runs may write. */
function workingFolder(): string {
  const path = join(folder, `working folder ${++count}`);
  mkdirSync(path);
  giveAway(path);
  return path;
}

/** An executable script, such as a Node.js that is none. */
function script(path: string, text: string, mode = 0o755): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

/** An installation whose Node.js gives one answer at once. */
function installAnswer(answer: number): string {
  const root = install('// a bundle');
  script(join(root, 'node/bin/node'), `#!/bin/sh\nexit ${answer}\n`);
  return root;
}

interface Call extends RunOptions {
  readonly root: string;
  readonly by: Shell;
}

/** Runs a launcher as PostgreSQL would in that role: in a data directory, with its two arguments. */
function play(role: Role, { root, by, ...options }: Call): Promise<Ended> {
  const [name = ''] = role.split(' ');
  const words = name === 'wal-push' ? ['pg_wal/A', 'A'] : ['A', `pg_wal/target ${++count}`];
  return runBy(by, join(root, 'bin', name), words, {
    cwd: role.endsWith('standby.signal') ? standby : primary,
    ...options,
    env: { ...(existsSync(join(root, 'node/bin/node')) ? {} : { WALT_NODE: realNode }), ...options.env },
  });
}

function runBy({ words: [shell, ...flags] }: Shell, path: string, words: readonly string[], options: RunOptions) {
  return shell === undefined ? run(path, words, options) : run(shell, [...flags, path, ...words], options);
}

/** Those that are played: of wal-t's executables, which differ in a word, one beside it unless under TORTURE=1. */
const played = roles.filter((role) => isTorture || !role.startsWith('basebackup-'));
const ofPlayed = (all: Codes) => Object.fromEntries(played.map((role) => [role, all[role]]));

/** The exit code in every role that is played; a death by a signal is none. */
async function playAll(call: Call): Promise<{ codes: Record<string, number | undefined>; stderr: string }> {
  const ended = await Promise.all(played.map((role) => play(role, call)));
  return {
    codes: Object.fromEntries(played.map((role, index) => [role, ended[index]?.code])),
    stderr: ended.map(({ stderr }) => stderr).join(''),
  };
}

/** All shells, or one of them in turn: where a shell sees an exit code alone, and every code is tried in each of them elsewhere. */
const inTurn = (index: number): readonly Shell[] =>
  isTorture ? [...shells, shebang] : [shells[index % shells.length] ?? shebang];

/** A launcher that runs, in a process group and a folder of its own, whose files it and the test talk by. */
async function start({ name, ...call }: Call & { readonly name: Role }) {
  const cwd = workingFolder();
  let pid = 0;
  const ended = play(name, {
    ...call,
    cwd,
    ownGroup: true,
    onStart: (child) => {
      pid = child.pid ?? 0;
    },
  });
  const has = (file: string) => existsSync(join(cwd, file));
  const note = (file: string) => waitFor(`"${file}" to be noted`, () => has(file));
  const allow = (file: string) => writeFileSync(join(cwd, file), '');
  await note('running');
  return { pid, ended, has, note, allow };
}

describe.concurrent('an answer of Node.js', () => {
  /** Exit codes of Node.js's own, of shells and of signals; all that WAL-T uses; the borders of what PostgreSQL tells apart. */
  const answers = [
    ...Array.from({ length: 15 }, (_, code) => code),
    ...[42, 69, 70, 71, 89, 90, 91, 92, 93, 99, 124, 125, 126, 127, 128, 129, 130, 134, 137, 139, 143, 178, 179],
    ...[180, 181, 182, 183, 184, 185, 186, 187, 188, 199, 200, 201, 255],
  ];

  function meant(role: Role, answer: number): number {
    if (answer === 90 || answer === 92 || answer === 188) return 0; // 188: died by signal 60, done
    if (answer === 91) return 1;
    if (role === 'wal-fetch') return 200;
    if (answer >= 180 && answer <= 187) return answer - 178; // died by signals 52 to 59
    return (answer >= 2 && answer <= 9) || answer === 70 ? answer : 70;
  }

  it.each(shells)('H3: is passed on by $shell only when it is one of the private codes', async ({ words }) => {
    const root = install('// a bundle');
    const node = script(join(root, 'node/bin/node'), '#!/bin/sh\n[ "$1" = --version ] || exit "$ANSWER"\n');
    writeFileSync(join(primary, 'pg_wal/there'), '');
    writeFileSync(join(standby, 'pg_wal/there'), '');
    for (const role of played) {
      const [name = ''] = role.split(' ');
      const sweep = 'for answer in $ANSWERS; do ANSWER=$answer "$@" A pg_wal/there; echo $answer $?; done';
      const { stdout } = await run('sh', ['-c', sweep, 'sh', ...words, join(root, 'bin', name)], {
        cwd: role.endsWith('standby.signal') ? standby : primary,
        env: { ANSWERS: answers.join(' ') },
      });
      const expected = answers.map((answer) => `${answer} ${meant(role, answer)}\n`).join('');
      expect(stdout, `${role}, with ${node}`).toBe(expected);
    }
  });

  const forEver = 'await new Promise(() => setInterval(() => undefined, 1000))';
  const behaviours: readonly (readonly [string, string, Codes, string])[] = [
    ['ends without a word', '', notRunnable, 'is missing'],
    ['only says process.exit(0)', 'process.exit(0)', failure, 'ended with 0: its work never came to an end'],
    ['never settles', 'await new Promise(() => undefined)', failure, 'ended with 13: its work never came to an end'],
    ['throws', 'throw new Error("unexpected")', failure, 'ended with 1: an uncaught error'],
    ['is cut off', 'import { a } from "node:', failure, 'a bundle that is not whole'],
    ['imports what is not installed', 'import "nothing-of-this-name"', failure, 'ended with 1:'],
    ['kills itself', `process.kill(process.pid, "SIGKILL"); ${forEver}`, failure, 'want of memory'],
    [
      'eats all memory',
      'for (const all = []; ; ) all.push(new Array(1e5).fill(0.5))',
      failure,
      'ended with 134: it ran out of memory',
    ],
    ['proves absence', 'process.exit(91)', codes(1, 1, 1, 1), ''],
    ['fails by itself', 'process.exit(4)', codes(4, 200, 4, 4), ''],
    ['fails by a signal', `process.kill(process.pid, 54); ${forEver}`, codes(4, 200, 4, 4), ''],
    [
      'says done, but leaves no file',
      'process.exit(90)',
      codes(0, 200, 70, 0),
      'the file is not where it was asked for',
    ],
    [
      'says done and leaves its file',
      `import { writeFileSync } from "node:fs"; writeFileSync(process.argv[3] === "A" ? "x" : process.argv[3], ""); process.exit(90)`,
      codes(0, 0, 0, 0),
      '',
    ],
  ];

  it.each(behaviours.map((one, index) => [...one, index] as const))(
    'H3: is right where the bundle %s',
    async (_, bundle, expected, said, index) => {
      const root = install(bundle);
      const env = { NODE_OPTIONS: '--max-old-space-size=20' };
      for (const by of inTurn(index)) {
        const { codes: found, stderr } = await playAll({ root, by, env });
        expect(found, by.shell).toEqual(ofPlayed(expected));
        if (said === '') expect(stderr, by.shell).toBe('');
        else expect(stderr, by.shell).toContain(said);
      }
    },
  );
});

describe.concurrent('an installation that is not whole', () => {
  interface Damage {
    readonly damage: string;
    readonly spoil?: (root: string) => void;
    readonly env?: (root: string) => Readonly<Record<string, string>>;
    readonly expected?: Codes;
    readonly said: string;
  }

  const damages: readonly Damage[] = [
    {
      damage: 'no Node.js anywhere',
      env: () => ({ WALT_NODE: '', PATH: '/nonexistent' }),
      expected: notRunnable,
      said: 'Node.js was not found as "node"',
    },
    {
      damage: 'a WALT_NODE that is not there',
      env: () => ({ WALT_NODE: '/nonexistent/node' }),
      expected: notRunnable,
      said: 'Node.js was not found as "/nonexistent/node"',
    },
    {
      damage: 'a WALT_NODE that is not executable',
      env: (root) => ({ WALT_NODE: script(join(root, 'node'), '#!/bin/sh\nexit 90\n', 0o644) }),
      expected: notRunnable,
      said: 'hint: Set WALT_NODE',
    },
    { damage: 'a WALT_NODE that is a folder', env: (root) => ({ WALT_NODE: root }), said: 'could not be started' },
    {
      damage: 'a Node.js whose interpreter is missing',
      env: (root) => ({ WALT_NODE: script(join(root, 'node'), '#!/nonexistent\n') }),
      said: 'could not be started',
    },
    {
      damage: 'an empty Node.js',
      env: (root) => ({ WALT_NODE: script(join(root, 'node'), '') }),
      said: 'its work never came to an end',
    },
    {
      damage: 'a Node.js too old to read the bundle',
      env: (root) => ({
        WALT_NODE: script(join(root, 'node'), '#!/bin/sh\ncase $1 in --version) echo v12.22.12 ;; *) exit 1 ;; esac\n'),
      }),
      said: 'is v12.22.12, 20.19 or later is needed',
    },
    {
      damage: 'a missing bundle',
      spoil: (root) => rmSync(join(root, 'dist'), { recursive: true }),
      expected: notRunnable,
      said: 'hint: The installation is incomplete',
    },
    { damage: 'a missing launch.sh', spoil: (root) => rmSync(join(root, 'bin/launch.sh')), said: 'launch.sh' },
    {
      damage: 'half a launch.sh',
      spoil: (root) => {
        const path = join(root, 'bin/launch.sh');
        const text = readFileSync(path, 'utf8');
        writeFileSync(path, text.slice(0, text.indexOf('esac')));
      },
      said: 'launch.sh',
    },
    {
      damage: 'an empty launch.sh',
      spoil: (root) => writeFileSync(join(root, 'bin/launch.sh'), ''),
      said: 'launch',
    },
  ];

  it.each(damages)('H3: with $damage is a failure', async ({ spoil, env, expected = failure, said }) => {
    const root = install('process.exit(90)');
    spoil?.(root);
    const options = { root, env: env?.(root) ?? {} };
    for (const by of shells) {
      // the shell itself is found although PATH may be empty
      const [tool = '', ...flags] = by.words;
      const path = spawnSync('sh', ['-c', 'command -v "$1"', 'sh', tool], { encoding: 'utf8' }).stdout.trim();
      const { codes: found, stderr } = await playAll({ ...options, by: { ...by, words: [path, ...flags] } });
      expect(found, by.shell).toEqual(ofPlayed(expected));
      expect(stderr, by.shell).toContain(said);
    }
  });

  it('H3: says so where Node.js is too old for the real bundles', async () => {
    const older = 'Object.defineProperty(process,"versions",{value:{...process.versions,node:"20.18.3"}})';
    const env = { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(older)}` };
    const { codes: found, stderr } = await playAll({ root: installation(), by: shebang, env });
    expect(found).toEqual(ofPlayed(notRunnable));
    expect(stderr).toContain('error: Node.js 20.18.3 is too old, 20.19 is needed');
  });

  const canLimit = orFailInCi(
    hasTool('prlimit') && (process.getuid?.() !== 0 || account.uid !== undefined),
    'processes cannot be limited',
  );
  it.skipIf(!canLimit).each(shells)('H3: where $shell cannot fork, fails', async ({ shell, words }) => {
    const limited: Shell = { shell, words: ['prlimit', '--nproc=1', ...words] };
    const { codes: found, stderr } = await playAll({ root: install('process.exit(90)'), by: limited });
    expect(found).toEqual(ofPlayed(failure));
    expect(stderr).toMatch(/fork/);
  });

  it('H3: without the launcher that wal-t hands over to, fails as that one would', async () => {
    const root = install('process.exit(90)');
    for (const name of ['wal-push', 'wal-fetch']) rmSync(join(root, 'bin', name));
    for (const by of shells) {
      for (const [name, expected] of [
        ['wal-push', 70],
        ['wal-fetch', 200],
      ] as const) {
        const { code } = await runBy(by, join(root, 'bin/wal-t'), [name, 'A', 'B'], { env: { WALT_NODE: realNode } });
        expect(code, `${by.shell} ${name}`).toBe(expected);
      }
    }
  });

  it('H3: truncated at any line, a launcher ends with its failing code', async () => {
    for (const [name, code] of [
      ['wal-push', 70],
      ['wal-fetch', 200],
      ...(isTorture ? walTs : (['wal-t', 'backup-list'] as const)).map((name) => [name, 70] as const),
    ] as const) {
      const root = install('process.exit(90)');
      const path = join(root, 'bin', name);
      const lines = readFileSync(path, 'utf8').split('\n');
      for (let kept = lines.findIndex((line) => line.startsWith('trap')) + 1; kept < lines.length - 2; kept += 1) {
        writeFileSync(path, lines.slice(0, kept).join('\n'));
        const ended = await play(name, { root, by: shells[kept % shells.length] ?? shebang });
        expect(ended.code, `${name}, ${kept} lines`).toBe(code);
      }
    }
  });
});

describe.concurrent('a launcher', () => {
  const echo = 'process.stdout.write(JSON.stringify(process.argv.slice(2))); process.exit(90)';
  const words = ['two words', '', '*', "it's", '"$HOME"', '%p', 'back\\slash'];

  it('is found from anywhere, and passes its arguments on as they are', async () => {
    const root = install(echo);
    const path = join(root, 'bin/wal-push');
    const links = join(folder, 'folder of links');
    mkdirSync(join(links, 'deeper'), { recursive: true });
    symlinkSync(path, join(links, 'absolute'));
    symlinkSync(`../${root.slice(folder.length + 1)}/bin/wal-push`, join(links, 'relative'));
    symlinkSync('../relative', join(links, 'deeper/chain'));
    symlinkSync('deeper/chain', join(links, 'longer chain'));
    symlinkSync(join(root, 'bin'), join(links, 'bin'));
    const env = { WALT_NODE: realNode };
    const onPath = { ...env, PATH: `${links}:${join(root, 'bin')}:${plainEnvironment().PATH}` };
    const calls: readonly (readonly [string, RunOptions])[] = [
      [path, { env }],
      ['./wal-push', { env, cwd: join(root, 'bin') }],
      ['bin/wal-push', { env, cwd: root }],
      ['../bin/wal-push', { env, cwd: join(root, 'dist') }],
      ['wal-push', { env: onPath }],
      ['absolute', { env: onPath }],
      ['longer chain', { env: onPath }],
      [join(links, 'absolute'), { env }],
      [join(links, 'relative'), { env }],
      [join(links, 'longer chain'), { env }],
      ['./chain', { env, cwd: join(links, 'deeper') }],
      [join(links, 'bin/wal-push'), { env }],
    ];
    for (const [command, options] of calls) {
      for (const by of command.includes('/') ? [...shells, shebang] : [shebang]) {
        const { code, stdout, stderr } = await runBy(by, command, words, options);
        expect({ code, stdout, stderr }, `${by.shell} ${command}`).toEqual({
          code: 0,
          stdout: JSON.stringify(words),
          stderr: '',
        });
      }
    }
    for (const by of shells) {
      const { code, stdout } = await runBy(by, 'wal-push', words, { env, cwd: join(root, 'bin') });
      expect([code, stdout], by.shell).toEqual([0, JSON.stringify(words)]);
    }
  });

  it('takes the Node.js of WALT_NODE, then the one in the package, then the one in PATH', async () => {
    const root = install('// a bundle');
    const node = (place: string) => script(join(root, place, 'node'), `#!/bin/sh\necho "${place}"\nexit 90\n`);
    const [byVariable, byPath, own] = [node('by variable'), node('by path'), node('node/bin')];
    const env = { PATH: `${dirname(byPath)}:${plainEnvironment().PATH}` };
    for (const by of [...shells, shebang]) {
      const path = join(root, 'bin/wal-push');
      chmodSync(own, 0o755);
      expect((await runBy(by, path, [], { env: { ...env, WALT_NODE: byVariable } })).stdout).toBe('by variable\n');
      for (const none of [{}, { WALT_NODE: '' }]) {
        expect((await runBy(by, path, [], { env: { ...env, ...none } })).stdout, by.shell).toBe('node/bin\n');
      }
      chmodSync(own, 0o644);
      expect((await runBy(by, path, [], { env })).stdout, by.shell).toBe('by path\n');
    }
  });

  it('is of one version with all that it loads, whenever an upgrade switches the link to the package', async () => {
    const versions = join(folder, 'versions');
    const link = join(versions, 'current');
    // the link is switched as soon as launch.sh is read, and again when Node.js starts
    const upgrade = `ln -sfn new "${link}.new" && mv -T "${link}.new" "${link}"`;
    for (const version of ['old', 'new']) {
      const root = install(
        `const { default: later } = await import('./later.mjs'); process.stdout.write('${version} bundle, ' + later); process.exit(90)`,
        join(versions, version),
      );
      writeFileSync(join(root, 'dist/later.mjs'), `export default '${version} chunk';`);
      const shared = join(root, 'bin/launch.sh');
      writeFileSync(shared, `${upgrade}\nprintf '${version} launch.sh, '\n${readFileSync(shared, 'utf8')}`);
      script(
        join(root, 'node/bin/node'),
        `#!/bin/sh\n${upgrade}\nprintf '${version} node, '\nexec "${realNode}" "$@"\n`,
      );
    }
    for (const name of ['wal-push', 'wal-t'] as const) {
      for (const by of [...shells, shebang]) {
        rmSync(link, { force: true });
        for (const version of ['old', 'new']) {
          if (version === 'old') symlinkSync('old', link);
          const { stdout, stderr } = await runBy(by, join(link, 'bin', name), [], { asRoot: true });
          const all = ['launch.sh', 'node', 'bundle', 'chunk'].map((part) => `${version} ${part}`);
          expect(stdout + stderr, by.shell).toBe(all.join(', '));
        }
      }
    }
  });

  it.each(['wal-t', 'backup-list'])(
    'tells %s where it was called, past links to the file but with those above it',
    async (name) => {
      const root = install('process.stdout.write(process.env.WAL_T_BIN); process.exit(90)');
      const links = join(root, 'links');
      mkdirSync(links);
      symlinkSync('..', join(links, 'current'));
      symlinkSync(`current/bin/${name}`, join(links, name));
      const env = { WALT_NODE: realNode, WAL_T_BIN: '/nonsense' };
      for (const path of [join(links, name), join(links, 'current/bin', name)]) {
        expect((await runBy(shebang, path, [], { env })).stdout).toBe(join(links, 'current/bin'));
      }
    },
  );

  it.each(shells)('passes standard input on under $shell, and does without any of the three', async (by) => {
    const root = install(
      'process.stdin.pipe(process.stdout).on("finish", () => {}); process.stdin.on("end", () => process.exit(90))',
    );
    const call = [...by.words, join(root, 'bin/wal-push')];
    const env = { WALT_NODE: realNode };
    const piped = await run('sh', ['-c', 'printf "line 1\\nline 2" | "$@"', 'sh', ...call], { env });
    expect([piped.code, piped.stdout]).toEqual([0, 'line 1\nline 2']);
    for (const closed of ['<&-', '>&- </dev/null', '2>&- </dev/null', '<&- >&- 2>&-']) {
      const { code, stderr } = await run('sh', ['-c', `"$@" ${closed}`, 'sh', ...call], { env });
      expect([code, stderr], closed).toEqual([0, '']);
    }
  });

  it.each(shells)('keeps its exit code under $shell when nobody reads the log', async (by) => {
    const root = install('process.exit(42)');
    const call = [...by.words, join(root, 'bin/wal-push')];
    // as under PostgreSQL, which ignores SIGPIPE and has its commands inherit that
    const deaf = `
      trap '' PIPE
      exec 3>&1
      { until [ -e gone ]; do sleep 0.01; done; "$@"; echo $? >&3; } 2>&1 >/dev/null | { exec <&-; echo > gone; }`;
    const options = { cwd: workingFolder(), env: { WALT_NODE: realNode } };
    const { stdout } = await run('sh', ['-c', deaf, 'sh', ...call], options);
    expect(stdout).toBe('70\n');
  });

  it.skipIf(!hasTool('shellcheck'))('passes shellcheck', async () => {
    const bin = join(installation(), 'bin');
    const files = readdirSync(bin).map((name) => join(bin, name));
    const { stdout, stderr } = await run('shellcheck', ['-x', '-P', 'SCRIPTDIR', ...files]);
    expect(stdout + stderr).toBe('');
  });
});

describe.concurrent('wal-fetch', () => {
  it('H6: knows a standby by %p, then by where it runs, then by WALT_PGDATA', async () => {
    const root = installAnswer(4);
    const elsewhere = join(folder, 'else where');
    const spaced = join(elsewhere, 'a standby');
    mkdirSync(join(spaced, 'pg_wal'), { recursive: true });
    writeFileSync(join(spaced, 'standby.signal'), '');
    const rows: readonly (readonly [cwd: string, path: string, pgdata: string, code: number])[] = [
      [standby, 'pg_wal/RECOVERYXLOG', '', 4],
      [primary, 'pg_wal/RECOVERYXLOG', '', 200],
      [standby, 'pg_wal/RECOVERYXLOG', primary, 4],
      [primary, 'pg_wal/RECOVERYXLOG', standby, 200],
      [elsewhere, `${standby}/pg_wal/A`, '', 4],
      [elsewhere, `${spaced}/pg_wal/A`, '', 4],
      [elsewhere, `${primary}/pg_wal/A`, standby, 200],
      [standby, `${primary}/pg_wal/A`, standby, 200],
      [primary, `${standby}/pg_wal/A`, primary, 4],
      [elsewhere, 'A', spaced, 4],
      [elsewhere, 'A', '', 200],
      [elsewhere, '/tmp/A', standby, 4],
      [standby, '/tmp/A', '', 4],
    ];
    for (const [cwd, path, WALT_PGDATA, expected] of rows) {
      for (const by of shells) {
        const env = { WALT_PGDATA };
        const { code } = await runBy(by, join(root, 'bin/wal-fetch'), ['A', path], { cwd, env });
        expect(code, `${by.shell} in ${cwd}: ${path}, WALT_PGDATA=${WALT_PGDATA}`).toBe(expected);
      }
    }
  });

  it('H3: finds its file and its rule whether flags stand before or behind, and behind wal-t too', async () => {
    const rows: readonly (readonly [name: string, words: readonly string[]])[] = [
      ['wal-fetch', ['A', 'THERE']],
      ['wal-fetch', ['--config', 'c', 'A', 'THERE']],
      ['wal-fetch', ['A', 'THERE', '--cluster', '1']],
      ['wal-t', ['wal-fetch', 'A', 'THERE']],
      ['wal-t', ['wal-fetch', '--config=c', 'A', 'THERE']],
      ['wal-t', ['wal-fetch', 'A', 'THERE', '--cluster', '1']],
      ['wal-t', ['--config', 'c', 'wal-fetch', 'A', 'THERE']],
    ];
    const [done, failing] = [installAnswer(90), installAnswer(4)];
    for (const by of shells) {
      for (const [name, words] of rows) {
        const call = (root: string, there: string) => {
          const given = words.map((word) => word.replace('THERE', there));
          return runBy(by, join(root, 'bin', name), given, { cwd: primary });
        };
        const found = [
          (await call(done, 'PG_VERSION')).code,
          (await call(done, 'nothing')).code,
          (await call(failing, 'PG_VERSION')).code,
        ];
        expect(found, `${by.shell} ${name} ${words.join(' ')}`).toEqual([0, 200, 200]);
      }
    }
  });

  it('H3: called as wal-t wal-push and wal-t wal-fetch, hands the words that remain to the right bundle', async () => {
    const root = install('process.stdout.write(JSON.stringify(process.argv.slice(1)))');
    for (const [given, name, expected] of [
      [['wal-push', 'a b', ''], 'wal-push', ['a b', '']],
      [['--config', 'c', 'wal-push', 'wal-fetch'], 'wal-push', ['--config', 'c', 'wal-fetch']],
      [['wal-fetch', '*', 'wal-fetch'], 'wal-fetch', ['*', 'wal-fetch']],
      [['config', '--json'], 'wal-t', ['config', '--json']],
      [[], 'wal-t', []],
    ] as const) {
      for (const by of shells) {
        const { stdout } = await runBy(by, join(root, 'bin/wal-t'), given, { env: { WALT_NODE: realNode } });
        expect(JSON.parse(stdout), by.shell).toEqual([join(root, `dist/${name}.mjs`), ...expected]);
      }
    }
  });
});

/** The commands, their words between zeros, of the processes that a process has started. */
function childrenOf(pid: number): string[] {
  const pids = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean);
  return pids.map((child) => {
    try {
      return readFileSync(`/proc/${child}/cmdline`, 'utf8');
    } catch {
      return ''; // it has ended
    }
  });
}

describe.concurrent("one of wal-t's own executables", () => {
  const others = walTs.filter((name) => name !== 'wal-t');
  const env = { WALT_NODE: realNode };

  it("hands its words to wal-t's bundle behind its name", async () => {
    const root = install('process.stdout.write(JSON.stringify(process.argv.slice(1))); process.exit(90)');
    const words = ['a b', '', '*', '--json'];
    for (const name of others) {
      for (const by of [...shells, shebang]) {
        const { code, stdout, stderr } = await runBy(by, join(root, 'bin', name), words, { env });
        expect([code, stderr], by.shell).toEqual([0, '']);
        expect(JSON.parse(stdout), by.shell).toEqual([join(root, 'dist/wal-t.mjs'), name, ...words]);
      }
    }
  });

  it('speaks under its own name when Node.js gives no answer, or cannot be started', async () => {
    for (const name of others) {
      for (const by of shells) {
        for (const [root, message] of [
          [installAnswer(13), 'Node.js ended with 13'],
          [install(undefined), '".*" is missing'],
        ] as const) {
          const { stderr } = await runBy(by, join(root, 'bin', name), [], {});
          expect(stderr, by.shell).toMatch(new RegExp(`^${name}: error: ${message}.*\n${name}: hint: .*\n$`));
        }
      }
    }
  });

  it('has 16 threads for zstd, or as many as were asked for, which wal-push and wal-fetch do not need', async () => {
    const root = install('process.stdout.write(process.env.UV_THREADPOOL_SIZE ?? "unset"); process.exit(90)');
    for (const by of shells) {
      for (const [name, UV_THREADPOOL_SIZE, expected] of [
        ['wal-t', undefined, '16'],
        ['basebackup-push', undefined, '16'],
        ['basebackup-push', '', '16'],
        ['basebackup-push', '5', '5'],
        ['wal-push', undefined, 'unset'],
        ['wal-fetch', '5', '5'],
      ] as const) {
        const given = UV_THREADPOOL_SIZE === undefined ? env : { ...env, UV_THREADPOOL_SIZE };
        const { stdout } = await runBy(by, join(root, 'bin', name), ['A', 'B'], { env: given });
        expect(stdout, `${by.shell} ${name} ${UV_THREADPOOL_SIZE}`).toBe(expected);
      }
    }
  });
});

describe.concurrent('a signal', () => {
  /** Notes that it runs, which signal it gets first, and, as soon as it may, that it has cleaned up; then dies by the signal. */
  const worker = `
    import { existsSync, writeFileSync } from 'node:fs';
    let first;
    for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => {
      writeFileSync('told', first ??= signal);
      setInterval(() => {
        if (!existsSync('may end')) return;
        writeFileSync('cleaned', '');
        process.removeAllListeners(first);
        process.kill(process.pid, first);
      }, 10);
    });
    setInterval(() => undefined, 1000);
    writeFileSync('running', '');`;

  it.each(shells)('is passed on by $shell, which dies by it after Node.js has cleaned up', async (by) => {
    const root = install(worker);
    for (const name of ['wal-push', 'wal-fetch', 'wal-t', 'basebackup-push'] as const) {
      for (const signal of ['SIGTERM', 'SIGINT'] as const) {
        const command = await start({ name, root, by });
        process.kill(command.pid, signal);
        await command.note('told');
        command.allow('may end');
        const ended = await command.ended;
        expect([ended.signal, command.has('cleaned'), ended.stderr], `${name} ${signal}`).toEqual([signal, true, '']);
      }
    }
  });

  it.each(shells)('that comes again under $shell does not cut the cleaning up short', async (by) => {
    const command = await start({ name: 'wal-push', root: install(worker), by });
    process.kill(command.pid, 'SIGTERM');
    await command.note('told');
    for (const again of ['SIGINT', 'SIGTERM'] as const) process.kill(command.pid, again);
    process.kill(-command.pid, 'SIGTERM');
    command.allow('may end');
    expect([(await command.ended).signal, command.has('cleaned')]).toEqual(['SIGTERM', true]);
  });

  it.each(shells)(
    'reaches a Node.js that $shell is only starting, and that ignores SIGINT until it is up',
    async (by) => {
      const root = install(worker);
      const node = script(join(root, 'slow node'), `#!/bin/sh\necho > running\nexec sleep 60\n`);
      const command = await start({ name: 'wal-fetch', root, by, env: { WALT_NODE: node } });
      process.kill(command.pid, 'SIGINT');
      expect((await command.ended).signal).toBe('SIGINT');
    },
  );

  it.skipIf(!hasTool('strace')).each(shells)(
    'is not lost on a child that $shell has only forked, and that is still a copy of it',
    async ({ shell, words }) => {
      const root = install(`import { writeFileSync } from 'node:fs'; setTimeout(writeFileSync, 10_000, 'ran on', '');`);
      // each process takes its time before it first says what it does about a signal
      const delay = ['-e', 'trace=rt_sigaction', '-e', 'inject=rt_sigaction:delay_enter=500000:when=1'];
      const by: Shell = { shell, words: ['strace', '-D', '-qq', '-f', '-o', '/dev/null', ...delay, ...words] };
      for (const signal of ['SIGTERM', 'SIGINT'] as const) {
        const cwd = workingFolder();
        let pid = 0;
        const onStart = (child: ChildProcess) => {
          pid = child.pid ?? 0;
        };
        const ended = play('wal-push', { root, by, cwd, onStart, asRoot: true });
        await waitFor('the fork', () => childrenOf(pid).some((command) => command.startsWith(words.join('\0'))));
        process.kill(pid, signal);
        expect([(await ended).signal, existsSync(join(cwd, 'ran on'))], signal).toEqual([signal, false]);
      }
    },
  );
});

describe.concurrent('between Node.js and the launcher', () => {
  /** A system call that does not come back: it opens a pipe that nobody writes to. */
  const hang = "readFile('pipe').catch(() => undefined);";

  /** Bundles whose work is `body`, run by src/cli/run.ts as it is. */
  async function installWork(body: string): Promise<string> {
    const { outputFiles } = await build({
      stdin: {
        contents: `
          import { writeFileSync, existsSync } from 'node:fs';
          import { readFile } from 'node:fs/promises';
          import { setTimeout as pause } from 'node:timers/promises';
          import { run } from './run.ts';
          import * as errors from '../errors.ts';
          await run('wal-fetch', () => ({ program: 'wal-fetch', work: async (context) => { ${body} } }));`,
        resolveDir: join(checkout, 'src/cli'),
        loader: 'ts',
      },
      bundle: true,
      write: false,
      platform: 'node',
      format: 'esm',
      target: 'node20',
      banner: { js: 'import{createRequire}from"node:module";const require=createRequire(import.meta.url);' },
      logLevel: 'error',
    });
    return install(outputFiles[0]?.text);
  }

  it.each([
    ['done', 'return "done"', codes(0, 200, 70, 0), 'delivered'],
    ['an answer that it is absent', 'return "absent"', codes(1, 1, 1, 1), ''],
    ['help', 'return "shown"', codes(0, 0, 0, 0), ''],
    ['wrong usage', 'throw new errors.UsageError("m")', codes(2, 200, 2, 2), 'error: m'],
    ['a storage that fails', 'throw new errors.StorageError("m")', codes(4, 200, 4, 4), 'error: m'],
    ['this host', 'throw new errors.HostError("m")', codes(9, 200, 9, 9), 'error: m'],
    [
      'an object that is missed on the way',
      'throw new errors.ObjectNotFound("k")',
      codes(6, 200, 6, 6),
      'no object "k"',
    ],
    ['a storage that hangs', `${hang} throw new errors.StorageError("m")`, codes(4, 200, 4, 4), 'error: m'],
    ['a bug while the storage hangs', `${hang} null.x`, failure, 'internal error'],
    ['a bug', 'null.x', failure, 'internal error: Cannot read properties of null'],
    ['a thrown string', 'throw "text"', failure, 'internal error: text'],
    ['a bug behind a timer', 'setTimeout(() => null.x, 0); await pause(60000)', failure, 'internal error'],
    [
      'a rejection that nobody awaits',
      'Promise.reject(new Error("m")); await pause(60000)',
      failure,
      'internal error: m',
    ],
    ['work that never ends', 'await new Promise(() => undefined)', failure, 'its work never came to an end'],
  ] as const)('H3: %s has its code', async (_, body, expected, said) => {
    const { codes: found, stderr } = await playAll({ root: await installWork(body), by: shebang });
    expect(found).toEqual(ofPlayed(expected));
    expect(stderr).toContain(said);
  });

  it('a signal to the whole group, as PostgreSQL sends it, still lets the command clean up', async () => {
    const root = await installWork(`
      writeFileSync('running', '');
      while (!context.signal.aborted) await pause(10);
      writeFileSync('told', '');
      while (!existsSync('may end')) await pause(10);
      writeFileSync('cleaned', '');
      context.signal.throwIfAborted();`);
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      const command = await start({ name: 'wal-push', root, by: shebang });
      process.kill(-command.pid, signal);
      await command.note('told');
      process.kill(-command.pid, signal);
      command.allow('may end');
      const ended = await command.ended;
      expect([ended.signal, command.has('cleaned')]).toEqual([signal, true]);
      expect(ended.stderr).toContain(`error: interrupted by ${signal}\n`);
    }
  });

  it('a command that does not clean up in time dies all the same', async () => {
    const root = await installWork(`writeFileSync('running', ''); await pause(600000);`);
    const command = await start({ name: 'wal-push', root, by: shebang });
    process.kill(command.pid, 'SIGTERM');
    expect((await command.ended).signal).toBe('SIGTERM');
  });

  /** PID 1 of a container: whatever loses its parent becomes its child. Prints how each of its children ended. */
  const subreaper = `
import ctypes, os, signal, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
launcher = subprocess.Popen(sys.argv[1:])
while not os.path.exists('running'): time.sleep(0.01)
launcher.kill()
launcher.wait()
open('orphaned', 'w').close()
pid, status = os.wait()
print('launcher', launcher.returncode, 'orphan', os.waitstatus_to_exitcode(status))`;

  const tillOrphaned = `writeFileSync('running', String(process.pid)); while (!existsSync('orphaned')) await pause(10);`;
  it.skipIf(!hasTool('python3')).each([
    ['that is done', `${tillOrphaned} return 'done'`, ''],
    ['that fails', `${tillOrphaned} throw new errors.StorageError('m')`, ''],
    ['that has a bug', `${tillOrphaned} setTimeout(() => null.x); await pause(60000)`, ''],
    [
      'that is told to end',
      `${tillOrphaned} process.kill(process.pid, 'SIGTERM'); await pause(60000, '', context)`,
      '',
    ],
    // killed before Node.js can ask who its parent is
    [
      'that was only being started',
      'throw new Error()',
      'echo > running; until [ -e orphaned ]; do sleep 0.01; done; ',
    ],
  ])('H5: an orphan %s ends with 0', async (_, body, before) => {
    const root = await installWork(body);
    const node = script(join(root, 'a node'), `#!/bin/sh\n${before}exec "${realNode}" "$@"\n`);
    const python = spawnSync('python3', ['-c', 'import sys; print(sys.executable)'], {
      encoding: 'utf8',
    }).stdout.trim();
    for (const by of inTurn(body.length)) {
      const words = ['-c', subreaper, ...by.words, join(root, 'bin/wal-fetch'), 'A', 'B'];
      const { stdout } = await run(python, words, { cwd: workingFolder(), env: { WALT_NODE: node }, asRoot: true });
      expect(stdout, by.shell).toBe('launcher -9 orphan 0\n');
    }
  });
});
