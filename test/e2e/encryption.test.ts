/** An encrypted archive: a host that pushes cannot read, whoever reads is told no lie, and whatever is wrong with a key stores nothing. */
import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openWalFile, storeWalFile, walIdentity } from '../../src/archive/wal-archive.ts';
import { bytesOf, collect } from '../../src/bytes.ts';
import { looksLikeAge } from '../../src/codec/age.ts';
import { formatRecipient, generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import { sealObject } from '../../src/codec/object.ts';
import { limits } from '../../src/limits.ts';
import { parseWalFileName } from '../../src/postgres/wal-file-name.ts';
import { FileStorage } from '../../src/storage/file.ts';
import { giveAway } from '../support/account.ts';
import { copyFolder } from '../support/copy-folder.ts';
import { makeFolder, removeFolder, temporaryFolder } from '../support/folders.ts';
import { seededRandom } from '../support/random.ts';
import { TestRepository } from '../support/repository.ts';
import { type Ended, walT } from '../support/run.ts';
import { makeDataDirectory, makeSegment, testSystemIdentifier } from '../support/segment.ts';
import { hasTool } from '../support/tools.ts';

const [first, second, third] = ['000000010000000000000001', '000000010000000000000002', '000000010000000000000003'];
const mebibyte = 1024 * 1024;
const isTorture = process.env.TORTURE === '1';
const target = 'pg_wal/RECOVERYXLOG';

interface KeyFile {
  readonly path: string;
  readonly text: string;
  readonly recipient: string;
  readonly keys: Keys;
}

let folder: string;
/** A repository with nothing in it, and one with the first segment, encrypted to Alice: copied for each host. */
let template: string;
let encrypted: string;
let alice: KeyFile;
let bob: KeyFile;
let authPath: string;

beforeAll(async () => {
  folder = makeFolder();
  template = join(folder, 'repo');
  await walT('wal-t', ['init'], { env: { WALT_REPO: `file://${template}` } });
  [alice, bob] = [await keygen('alice'), await keygen('bob')];
  authPath = join(folder, 'auth');
  await walT('wal-t', ['keygen', '--auth', '-o', authPath]);
  encrypted = join(folder, 'encrypted');
  await copyFolder(template, encrypted);
  const repository = new TestRepository({ folder, root: encrypted, settings: pushing() });
  const cwd = join(folder, 'data');
  const path = makeDataDirectory(cwd)(first, makeSegment(first));
  expect(await repository.run('wal-push', [path, first], { cwd })).toMatchObject(done);
});

afterAll(() => removeFolder(folder));

async function keygen(name: string): Promise<KeyFile> {
  const path = join(folder, name);
  const { code, stderr } = await walT('wal-t', ['keygen', '-o', path]);
  if (code !== 0) throw new Error(stderr);
  const text = readFileSync(path, 'utf8');
  const identity = parseIdentity(/^AGE-.*$/m.exec(text)?.[0] ?? '');
  const keys = { ...noKeys, identities: [identity], recipients: [identity] };
  return { path, text, recipient: formatRecipient(identity), keys };
}

type Settings = Readonly<Record<string, string>>;

/** A cluster and its repository, whose settings may change between two commands. */
class Host {
  readonly repository = new TestRepository();
  readonly data = join(this.repository.folder, 'data');
  readonly write = makeDataDirectory(this.data);

  constructor(settings: Settings, from = template) {
    spawnSync('cp', ['-a', from, this.repository.root]);
    this.set(settings);
  }

  set(settings: Settings): this {
    this.repository.configure(settings);
    return this;
  }

  push(name: string, content = makeSegment(name)): Promise<Ended> {
    return this.repository.run('wal-push', [this.write(name, content), name], { cwd: this.data });
  }

  fetch(name: string): Promise<Ended> {
    return this.repository.run('wal-fetch', [name, target], { cwd: this.data });
  }

  get delivered(): Buffer | undefined {
    const path = join(this.data, target);
    return existsSync(path) ? readFileSync(path) : undefined;
  }

  object(name: string): Buffer {
    return readFileSync(this.repository.object(name));
  }

  replace(name: string, object: Uint8Array): void {
    writeFileSync(this.repository.object(name), object);
  }

  /** In this process, for what is done often. */
  archive(keys: Keys) {
    const storage = new FileStorage(this.repository.root, { idleMs: 10_000, requestMs: 10_000 });
    return { storage, systemIdentifier: testSystemIdentifier, keys };
  }

  /** An object as somebody makes it who can write to the storage. */
  async forge(name: string, content: Buffer, keys: Keys): Promise<void> {
    const archive = this.archive(keys);
    const options = { pushedAt: new Date(), host: 'forger', level: 1, keys };
    const file = walFile(name);
    const sealed = await sealObject(() => bytesOf(content), { ...walIdentity(archive, file), ...options });
    await storeWalFile(archive, file, sealed, { conditionalPut: true });
    giveAway(this.repository.object(name));
  }
}

function walFile(name: string) {
  const file = parseWalFileName(name);
  if (file === undefined) throw new Error(name);
  return file;
}

const pushing = (): Settings => ({ WALT_AGE_RECIPIENTS: alice.recipient });
const reading = (): Settings => ({ WALT_AGE_IDENTITY_FILE: alice.path });
const authentic = (settings: Settings): Settings => ({ ...settings, WALT_AUTH_KEY_FILE: authPath });

const done = { code: 0, stdout: '', stderr: '' };

describe('a host with recipients only', () => {
  const withTools = it.skipIf(!hasTool('age') || !hasTool('zstd'));

  withTools('stores what age -d | zstd -d turns into the segment', async () => {
    const host = new Host(pushing());
    expect(await host.push(first)).toEqual(expect.objectContaining(done));
    expect(looksLikeAge(host.object(first))).toBe(true);
    const script = 'age -d -i "$1" "$2" | zstd -dcq';
    const words = ['-c', script, 'sh', alice.path, host.repository.object(first)];
    const { stdout } = spawnSync('sh', words, { maxBuffer: 2 ** 24 });
    expect(stdout.equals(makeSegment(first))).toBe(true);
  });

  it.each([
    ['', (settings: Settings) => settings, 4],
    [' and an authentication key', authentic, 1],
  ])('pushes again, refuses other content, and finds a damaged length%s', async (_what, more, damages) => {
    const host = new Host(more(pushing()));
    expect(await host.push(first)).toMatchObject(done);
    const object = host.object(first);
    expect(await host.push(first)).toMatchObject(done);
    expect(await host.push(first, makeSegment(first, { seed: 'other' }))).toMatchObject({
      code: 5,
      stderr: expect.stringContaining('is archived already, with other content'),
    });
    expect(host.object(first).equals(object)).toBe(true);
    const rows: readonly (readonly [Buffer, string])[] = [
      [object.subarray(0, -1), 'the object is truncated'],
      [object.subarray(0, 100), 'ends too early'],
      [Buffer.alloc(0), 'the object is empty'],
      [Buffer.concat([object, Buffer.alloc(1)]), 'bytes follow after the object'],
      [object.subarray(0, 500), 'the object is truncated'],
    ];
    for (const [damaged, message] of isTorture ? rows : rows.slice(0, damages)) {
      host.replace(first, damaged);
      expect(await host.push(first)).toMatchObject({ code: 6, stderr: expect.stringContaining(message) });
      expect(host.object(first).equals(damaged)).toBe(true);
    }
    host.replace(first, object);
    expect(await host.push(first)).toMatchObject(done);
    expect(
      host
        .set(more(reading()))
        .repository.files()
        .filter((path) => path.startsWith('.tmp')),
    ).toEqual([]);
    expect(await host.fetch(first)).toMatchObject(done);
    expect(host.delivered?.equals(makeSegment(first))).toBe(true);
  });

  it('cannot fetch, and says so at once: 200 in archive recovery, 3 under standby.signal', async () => {
    const host = new Host(pushing(), encrypted);
    const patient = { WALT_WAL_FETCH_TIMEOUT: '1h', WALT_WAL_FETCH_STANDBY_TIMEOUT: '1h' };
    for (const settings of [{ ...pushing(), ...patient }, patient]) {
      host.set(settings);
      const expected = { stderr: expect.stringMatching(/error: .*the archive is encrypted, and no identity is set/) };
      expect(await host.fetch(first)).toMatchObject({ code: 200, ...expected });
      writeFileSync(join(host.data, 'standby.signal'), '');
      expect(await host.fetch(first)).toMatchObject({ code: 3, ...expected });
      spawnSync('rm', [join(host.data, 'standby.signal')]);
    }
    expect(host.delivered).toBeUndefined();
  });

  it('cannot tell what another one stored with an authentication key, and says so', async () => {
    const host = new Host(authentic(pushing()));
    await host.push(first);
    expect(await host.set(pushing()).push(first)).toMatchObject({
      code: 3,
      stderr: expect.stringContaining('it cannot be told whether the same is archived already'),
    });
  });

  it('H12: keeps both ends of a segment that two standbys were promoted out of', async () => {
    const host = new Host(authentic(pushing()));
    const partial = `${second}.partial`;
    const [mine, other] = [makeSegment(partial), makeSegment(partial, { seed: 'other standby' })];
    for (const content of [mine, other, other, mine]) expect((await host.push(partial, content)).code).toBe(0);
    const kept = host.repository.files().filter((path) => path.includes('.partial'));
    expect(kept.length).toBe(2);
    for (const path of kept) expect(looksLikeAge(readFileSync(join(host.repository.root, path)))).toBe(true);
  });

  it('stores a segment that is too large to be held, encrypted and whole', async () => {
    const host = new Host({ ...pushing(), WALT_COMPRESSION_LEVEL: '1' });
    // zstd makes it a little longer than it is, and that is too long
    const content = makeSegment(first, { sizeBytes: limits.heldBytes, fill: 'random' });
    makeDataDirectory(host.data); // its control file is of smaller segments, which nobody compares
    expect(await host.push(first, content)).toMatchObject(done);
    expect(host.object(first).length).toBeGreaterThan(content.length);
    expect(looksLikeAge(host.object(first))).toBe(true);
    const { content: opened } = await openWalFile(host.archive(alice.keys), walFile(first));
    expect((await collect(opened, content.length)).equals(content)).toBe(true);
  });
});

describe('a host with an identity', () => {
  it('reads over a rotation: the old identity for old objects, the new one for new', async () => {
    const host = new Host(pushing(), encrypted);
    await host.set({ WALT_AGE_RECIPIENTS: `${alice.recipient}, ${bob.recipient}` }).push(second);
    await host.set({ WALT_AGE_RECIPIENTS: bob.recipient }).push(third);
    const both = join(host.repository.folder, 'both');
    writeFileSync(both, `${alice.text}\n${bob.text}`);
    giveAway(both);
    const inline = [alice, bob].map(({ text }) => /AGE-\S+/.exec(text)?.[0]).join(' ');
    type Codes = Readonly<Record<string, number>>;
    const rows: readonly (readonly [Settings, Codes])[] = [
      [{ WALT_AGE_IDENTITY_FILE: alice.path }, { [first]: 0, [second]: 0, [third]: 200 }],
      [{ WALT_AGE_IDENTITY_FILE: bob.path }, { [first]: 200, [second]: 0, [third]: 0 }],
      // what either of the two opens has been opened
      [{ WALT_AGE_IDENTITY_FILE: `${alice.path}, ${bob.path}` }, { [first]: 0, [third]: 0 }],
      [{ WALT_AGE_IDENTITY_FILE: both }, { [first]: 0, [third]: 0 }],
      [{ WALT_AGE_IDENTITY: inline }, { [first]: 0, [third]: 0 }],
    ];
    for (const [settings, codes] of rows) {
      host.set(settings);
      for (const [name, expected] of Object.entries(codes)) {
        const { code, stderr } = await host.fetch(name);
        expect([name, code]).toEqual([name, expected]);
        expect(stderr).toContain(code === 0 ? '' : 'no identity fits');
      }
    }
    expect(host.delivered?.equals(makeSegment(third))).toBe(true);
  });

  it('H1: proves the end and finds a hole in what is encrypted, and delivers what a promotion left', async () => {
    const host = new Host(pushing(), encrypted);
    const partial = `${third}.partial`;
    const history = Buffer.from('1\t0/380000\tno recovery target specified\n');
    await host.push(second);
    host.set(reading());
    expect((await host.fetch(third)).code).toBe(1);
    expect((await host.fetch('00000002.history')).code).toBe(1);
    await host.set(pushing()).push('00000002.history', history);
    const hole = await host.set({ ...reading(), WALT_WAL_FETCH_TIMEOUT: '1ms' }).fetch(third);
    expect(hole).toMatchObject({ code: 200, stderr: expect.stringContaining('its timeline went further') });
    await host.set(pushing()).push(partial, makeSegment(partial));
    expect(await host.set(reading()).fetch(third)).toMatchObject(done);
    const half = mebibyte / 2;
    expect(host.delivered?.subarray(0, half).equals(makeSegment(partial).subarray(0, half))).toBe(true);
    expect(host.delivered?.subarray(half).equals(Buffer.alloc(half))).toBe(true);
    const blind = await host.set(pushing()).fetch(third);
    expect(blind).toMatchObject({ code: 200, stderr: expect.stringContaining('no identity is set') });
  });

  it('refuses each of many objects with one bit flipped', async () => {
    const host = new Host(pushing(), encrypted);
    const object = host.object(first);
    const random = seededRandom(200);
    const count = isTorture ? 200 : 80;
    const bits = Array.from({ length: count }, (_, n) => random(n < count / 2 ? 8 * 600 : 8 * object.length));
    let refused = 0;
    for (const [n, bit] of bits.entries()) {
      const changed = Buffer.from(object);
      changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      host.replace(first, changed);
      const opening = openWalFile(host.archive(alice.keys), walFile(first));
      const outcome = await opening
        .then(({ content }) => collect(content, 2 * mebibyte))
        .catch((error: unknown) => error);
      expect([bit, outcome]).toEqual([
        bit,
        expect.objectContaining({ name: expect.stringMatching(/^(?:Corrupt|WrongKey)Error$/) }),
      ]);
      refused += 1;
      if (n % 20 !== 0) continue;
      expect([bit, (await host.set(reading()).fetch(first)).code]).toEqual([bit, 200]);
      expect(host.delivered).toBeUndefined();
    }
    expect(refused).toBe(count);
    host.replace(first, object);
    expect(await host.fetch(first)).toMatchObject(done);
  });

  it('refuses objects that were swapped, by reading and by pushing', async () => {
    for (const more of [authentic, (settings: Settings) => settings]) {
      const host = new Host(more(pushing()));
      for (const name of [first, second]) await host.push(name);
      const [one, two] = [host.repository.object(first), host.repository.object(second)];
      const aside = join(host.repository.folder, 'aside');
      renameSync(one, aside);
      renameSync(two, one);
      renameSync(aside, two);
      expect((await host.push(first)).code).toBe(5);
      host.set(more(reading()));
      for (const name of [first, second]) {
        expect(await host.fetch(name)).toMatchObject({
          code: 200,
          stderr: expect.stringContaining('another object is stored under this key'),
        });
      }
      expect(host.delivered).toBeUndefined();
    }
  });
});

describe('bad input', () => {
  interface Row {
    readonly name: string;
    /** Another row is refused by the same code. */
    readonly isAlike?: boolean;
    readonly settings: (file: (text: string, mode?: number) => string) => Settings;
    readonly code: number;
    readonly error: RegExp;
  }

  const malformed = 'age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq';
  const pushRows: readonly Row[] = [
    {
      name: 'a recipient malformed',
      isAlike: true,
      settings: () => ({ WALT_AGE_RECIPIENTS: malformed }),
      code: 3,
      error: /error: WALT_AGE_RECIPIENTS: an age recipient is malformed\n.*detail: key 1\n.*hint: A recipient is/,
    },
    {
      name: 'the second recipient malformed',
      settings: () => ({ WALT_AGE_RECIPIENTS: `${alice.recipient} ${malformed}` }),
      code: 3,
      error: /error: WALT_AGE_RECIPIENTS: an age recipient is malformed\n.*detail: key 2\n/,
    },
    {
      name: 'an identity where a recipient belongs',
      settings: () => ({ WALT_AGE_RECIPIENTS: /AGE-\S+/.exec(alice.text)?.[0] ?? '' }),
      code: 3,
      error: /error: WALT_AGE_RECIPIENTS: an age recipient is malformed\n/,
    },
    {
      name: 'a plugin’s recipient',
      isAlike: true,
      settings: () => ({
        WALT_AGE_RECIPIENTS: 'age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t',
      }),
      code: 3,
      error: /hint: Only X25519 recipients/,
    },
    {
      name: 'recipients that are only separators',
      settings: () => ({ WALT_AGE_RECIPIENTS: '" , "' }),
      code: 3,
      error: /error: WALT_AGE_RECIPIENTS holds no key\n/,
    },
    {
      name: 'too many recipients',
      settings: (file) => ({ WALT_AGE_RECIPIENTS_FILE: file(`${alice.recipient}\n`.repeat(101)) }),
      code: 3,
      error: /error: there are 101 age recipients\n/,
    },
    {
      name: 'a file of recipients that is missing',
      isAlike: true,
      settings: () => ({ WALT_AGE_RECIPIENTS_FILE: '/nowhere/recipients' }),
      code: 3,
      error: /error: could not read WALT_AGE_RECIPIENTS_FILE "\/nowhere\/recipients": no such file or directory\n/,
    },
    {
      name: 'a file of recipients that may not be read',
      isAlike: true,
      settings: (file) => ({ WALT_AGE_RECIPIENTS_FILE: file(alice.recipient, 0) }),
      code: 3,
      error: /error: could not read WALT_AGE_RECIPIENTS_FILE ".*": permission denied\n/,
    },
    {
      name: 'a folder of recipients',
      isAlike: true,
      settings: () => ({ WALT_AGE_RECIPIENTS_FILE: '/tmp' }),
      code: 3,
      error: /error: could not read WALT_AGE_RECIPIENTS_FILE "\/tmp": is a directory\n/,
    },
    {
      name: 'a file of recipients that is empty',
      isAlike: true,
      settings: (file) => ({ WALT_AGE_RECIPIENTS_FILE: file('') }),
      code: 3,
      error: /error: WALT_AGE_RECIPIENTS_FILE ".*" holds no key\n/,
    },
    {
      name: 'a file of recipients that holds comments only',
      settings: (file) => ({ WALT_AGE_RECIPIENTS_FILE: file(`# ${alice.recipient}\n\n`) }),
      code: 3,
      error: /error: WALT_AGE_RECIPIENTS_FILE ".*" holds no key\n/,
    },
    {
      name: 'sound recipients beside a file of them that is missing',
      settings: () => ({ ...pushing(), WALT_AGE_RECIPIENTS_FILE: '/nowhere/recipients' }),
      code: 3,
      error: /error: could not read WALT_AGE_RECIPIENTS_FILE/,
    },
    {
      name: 'an identity without a recipient',
      settings: () => reading(),
      code: 3,
      error: /error: an age identity is set, but no recipient: nothing would be encrypted\n/,
    },
    {
      name: 'an authentication key that is missing',
      settings: () => ({ ...pushing(), WALT_AUTH_KEY_FILE: '/nowhere/key' }),
      code: 3,
      error: /error: could not read WALT_AUTH_KEY_FILE "\/nowhere\/key": no such file/,
    },
    ...['', '# nothing\n', 'x'.repeat(64), '0'.repeat(63), '0'.repeat(66), `${'0'.repeat(64)}\n${'1'.repeat(64)}`].map(
      (text, index): Row => ({
        name: `an authentication key ${JSON.stringify(text).slice(0, 12)}… of ${text.length} characters`,
        isAlike: index < 4,
        settings: (file) => ({ ...pushing(), WALT_AUTH_KEY_FILE: file(text) }),
        code: 3,
        error: /error: WALT_AUTH_KEY_FILE ".*" holds no authentication key\n.*hint: .*keygen --auth/,
      }),
    ),
  ];

  const inSuite = ({ isAlike = false }: Row) => isTorture || !isAlike;

  it.each(pushRows.filter(inSuite))('of a push stores nothing: $name', async ({ settings, code, error }) => {
    const host = new Host({});
    const before = host.repository.files();
    host.set(settings(fileMaker(host)));
    const ended = await host.push(first);
    expect(ended).toMatchObject({ code, stdout: '', stderr: expect.stringMatching(error) });
    expect(host.repository.files()).toEqual(before);
    expectNoSecret(ended);
  });

  const fetchRows: readonly (Row & { readonly prepare?: (host: Host) => Promise<void> })[] = [
    {
      name: 'an identity malformed',
      settings: (file) => ({
        WALT_AGE_IDENTITY_FILE: file(alice.text.replace(/(?<=KEY-1)../, (two) => (two === 'QQ' ? 'PP' : 'QQ'))),
      }),
      code: 200,
      error:
        /error: WALT_AGE_IDENTITY_FILE ".*": an age identity is malformed\n.*detail: key 1\n.*hint: An identity is/,
    },
    {
      name: 'an identity malformed beside one that fits',
      settings: (file) => ({ WALT_AGE_IDENTITY_FILE: `${alice.path},${file('AGE-SECRET-KEY-1QQ')}` }),
      code: 200,
      error: /an age identity is malformed/,
    },
    {
      name: 'a post-quantum identity',
      isAlike: true,
      settings: () => ({
        WALT_AGE_IDENTITY: 'AGE-SECRET-KEY-PQ-1HZLGZUPT4ETPKDEV8HSGFDCYZ4E522W0A7PU2LHT8EH9W6YLNC3SW78XKG',
      }),
      code: 200,
      error: /error: WALT_AGE_IDENTITY: an age identity is malformed\n(.*\n)*.*hint: Only X25519 identities/,
    },
    {
      name: 'a file of identities that is missing',
      settings: () => ({ WALT_AGE_IDENTITY_FILE: '/nowhere/identity' }),
      code: 200,
      error: /error: could not read WALT_AGE_IDENTITY_FILE "\/nowhere\/identity": no such file or directory\n/,
    },
    {
      name: 'a file of identities that may not be read',
      isAlike: true,
      settings: (file) => ({ WALT_AGE_IDENTITY_FILE: file(alice.text, 0) }),
      code: 200,
      error: /error: could not read WALT_AGE_IDENTITY_FILE ".*": permission denied\n/,
    },
    {
      name: 'a file of identities that is empty',
      isAlike: true,
      settings: (file) => ({ WALT_AGE_IDENTITY_FILE: file('\n# empty\n') }),
      code: 200,
      error: /error: WALT_AGE_IDENTITY_FILE ".*" holds no key\n/,
    },
    {
      name: 'an identity that does not fit',
      settings: () => ({ WALT_AGE_IDENTITY_FILE: bob.path }),
      code: 200,
      error: /error: ".*" in .* cannot be opened: no identity fits: it is encrypted to other recipients\n/,
    },
    {
      name: 'H44: a plain object in an encrypted archive',
      prepare: (host) => host.forge(second, makeSegment(second), noKeys),
      settings: reading,
      code: 200,
      error: /is damaged: it is not encrypted, though an identity is set\n.*hint: .*WALT_READ_PLAINTEXT=1/,
    },
    {
      name: 'H44: an object forged by somebody who knows the recipient, where there is an authentication key',
      prepare: (host) => host.forge(second, makeSegment(second), alice.keys),
      settings: () => authentic(reading()),
      code: 200,
      error:
        /is damaged: it is not authentic\n.*detail: it carries no authentication code\n.*hint: .*WALT_AUTH_KEY_FILE/,
    },
    {
      name: 'H44: an object forged with another authentication key',
      prepare: (host) => host.forge(second, makeSegment(second), { ...alice.keys, authKey: Buffer.alloc(32) }),
      settings: () => authentic(reading()),
      code: 200,
      error: /is damaged: it is not authentic\n.*detail: its authentication code is not made with this key\n/,
    },
  ];

  it.each(fetchRows.filter(inSuite))(
    'of a fetch delivers nothing: $name',
    async ({ prepare, settings, code, error }) => {
      const host = new Host(pushing(), encrypted);
      await prepare?.(host);
      host.set(settings(fileMaker(host)));
      const ended = await host.fetch(prepare === undefined ? first : second);
      expect(ended).toMatchObject({ code, stdout: '', stderr: expect.stringMatching(error) });
      expect(host.delivered).toBeUndefined();
      expectNoSecret(ended);
    },
  );

  it('H44: is lifted for what is from before encryption was turned on, and for nothing else', async () => {
    const host = new Host({});
    await host.push(first);
    await host.set(pushing()).push(second);
    host.set({ ...reading(), WALT_READ_PLAINTEXT: '0' });
    expect((await host.fetch(first)).code).toBe(200);
    host.set({ ...reading(), WALT_READ_PLAINTEXT: '1' });
    for (const name of [first, second]) expect([name, (await host.fetch(name)).code]).toEqual([name, 0]);
    host.set({ ...authentic(reading()), WALT_READ_PLAINTEXT: '1' });
    expect(await host.fetch(first)).toMatchObject({ code: 200, stderr: expect.stringContaining('not authentic') });
  });

  it.each(['WALT_AGE_IDENTITY_FILE', 'WALT_AUTH_KEY_FILE'])(
    'that works is warned of: %s readable by all',
    async (name) => {
      const host = new Host(authentic(pushing()));
      await host.push(first);
      const settings = authentic(reading());
      const open = fileMaker(host)(readFileSync(settings[name] ?? '', 'utf8'), 0o644);
      const ended = await host.set({ ...settings, [name]: open }).fetch(first);
      expect(ended).toMatchObject({ code: 0, stdout: '' });
      expect(ended.stderr).toMatch(
        /^wal-fetch: warning: ".*" can be read by others than its owner\n.*hint: .*chmod 600/,
      );
      expectNoSecret(ended);
      chmodSync(open, 0o600);
      expect(await host.fetch(first)).toMatchObject(done);
    },
  );

  function fileMaker(host: Host) {
    return (text: string, mode = 0o600): string => {
      const path = join(host.repository.folder, `keys-${text.length}`);
      writeFileSync(path, text);
      giveAway(path);
      chmodSync(path, mode);
      return path;
    };
  }

  function expectNoSecret({ stderr }: Ended): void {
    const said = stderr.toUpperCase();
    for (const { text, recipient } of [alice, bob]) {
      expect(said).not.toContain(/AGE-\S+/.exec(text)?.[0].slice(-40));
      expect(said).not.toContain(recipient.toUpperCase());
    }
  }
});

it('shows no secret among the settings', async () => {
  const host = new Host({});
  const secret = generateIdentity();
  host.set({ ...pushing(), WALT_AGE_IDENTITY: secret, AWS_SECRET_ACCESS_KEY: 'very-secret' });
  let shown = '';
  for (const words of [['config'], ['config', '--json']]) {
    const { code, stdout, stderr } = await host.repository.run('wal-t', words);
    expect([code, stderr]).toEqual([0, '']);
    for (const text of [secret, alice.recipient, 'very-secret']) expect(stdout).not.toContain(text);
    expect(stdout.match(/\*\*\*/g)).toHaveLength(3);
    shown = stdout;
  }
  expect(JSON.parse(shown)).toContainEqual(expect.objectContaining({ name: 'WALT_AGE_IDENTITY', value: '***' }));
});

describe('keygen', () => {
  const withKeygen = it.skipIf(!hasTool('age-keygen'));

  it("prints age's own form", async () => {
    const { code, stdout, stderr } = await walT('wal-t', ['keygen']);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(
      /^# created: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n# public key: age1[a-z0-9]{58}\nAGE-SECRET-KEY-1[A-Z0-9]{58}\n$/,
    );
    expect((await walT('wal-t', ['keygen'])).stdout).not.toBe(stdout);
  });

  withKeygen("makes what Debian's age-keygen reads, and tells its public key", async () => {
    const path = join(temporaryFolder(), 'key');
    const { stderr } = await walT('wal-t', ['keygen', '-o', path]);
    const { stdout, status } = spawnSync('age-keygen', ['-y', path], { encoding: 'utf8' });
    expect([status, stderr.includes(stdout.trim()), stdout]).toEqual([0, true, expect.stringMatching(/^age1/)]);
  });

  it('reads what age-keygen makes, comments and all', async () => {
    const path = join(temporaryFolder(), 'foreign');
    copyFileSync(alice.path, path);
    writeFileSync(path, readFileSync(path, 'utf8').replaceAll('\n', '\r\n'));
    chmodSync(path, 0o600);
    giveAway(path);
    const host = new Host({ WALT_AGE_IDENTITY_FILE: path }, encrypted);
    expect(await host.fetch(first)).toMatchObject(done);
  });

  it.each([['keygen'], ['keygen --auth']])(
    '%s -o writes a new file that only its owner reads, and never overwrites',
    async (words) => {
      const path = join(temporaryFolder(), 'key');
      const made = await walT('wal-t', [...words.split(' '), '-o', path]);
      expect([made.code, made.stdout]).toEqual([0, '']);
      expect(statSync(path).mode & 0o777).toBe(0o600);
      const text = readFileSync(path, 'utf8');
      expect(made.stderr).not.toContain(text.trim().split('\n').at(-1));
      expect(await walT('wal-t', [...words.split(' '), '-o', path])).toMatchObject({
        code: 9,
        stdout: '',
        stderr: expect.stringMatching(/error: could not write ".*".*\n.*hint: A key is never overwritten/),
      });
      expect(readFileSync(path, 'utf8')).toBe(text);
      if (words === 'keygen') expect((await walT('wal-t', ['keygen', '-o', `${path}/x`])).code).toBe(9);
    },
  );

  it('--auth makes 32 random bytes', async () => {
    const [one, two] = [(await walT('wal-t', ['keygen', '--auth'])).stdout, readFileSync(authPath, 'utf8')];
    for (const text of [one, two]) expect(text).toMatch(/^# created: .*\n# .*WALT_AUTH_KEY_FILE\n[0-9a-f]{64}\n$/);
    expect(one.slice(-65)).not.toBe(two.slice(-65));
    // the second is what the hosts above have pushed and fetched with
  });
});
