/** Whatever is flipped, cut, swapped or removed in a stored backup, `verify --deep` names it and nothing that starts is restored from it. */
import { randomBytes } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Archive } from '../../src/archive/archive.ts';
import type { PartLine } from '../../src/archive/files-line.ts';
import { parseLines } from '../../src/archive/files-list.ts';
import { filesName, leaseName, manifestName, partName } from '../../src/archive/keys.ts';
import { type BackupManifest, readManifest, storeManifest } from '../../src/archive/manifest.ts';
import { readStream, type StreamName, storeStream } from '../../src/archive/part.ts';
import { usesOf } from '../../src/archive/part-uses.ts';
import { ByteReader, bytesOf } from '../../src/bytes.ts';
import { openAge, readAgeHeader, sealAge } from '../../src/codec/age.ts';
import { unwrapFileKey } from '../../src/codec/age-keys.ts';
import { sealStream } from '../../src/codec/age-stream.ts';
import { formatRecipient, generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import { decodeSeekTable, encodeSeekTable, type SeekEntry, seekTableSize } from '../../src/codec/seekable.ts';
import { openArchive } from '../../src/commands/backups.ts';
import { basebackupFetch } from '../../src/commands/basebackup-fetch.ts';
import { basebackupPush } from '../../src/commands/basebackup-push.ts';
import { isSound, type VerifyResult, verify } from '../../src/commands/verify.ts';
import { exitCodes, WalTError, WrongKeyError } from '../../src/errors.ts';
import { limits } from '../../src/limits.ts';
import { segmentNameAt } from '../../src/postgres/wal-file-name.ts';
import { FileStorage } from '../../src/storage/file.ts';
import { account, giveAway } from '../support/account.ts';
import { differences, hashFiles } from '../support/cluster-files.ts';
import { makeContext } from '../support/context.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { linesText, type RawLine, sealedList } from '../support/forged-backup.ts';
import { join as joinBytes } from '../support/objects.ts';
import { PostgresServer } from '../support/postgres.ts';
import { seededRandom } from '../support/random.ts';
import { TestRepository } from '../support/repository.ts';
import { run } from '../support/run.ts';

const isTorture = process.env.TORTURE === '1';
/** Restores are made in memory where there is such a place: these never have to survive. */
const restoreFolder = makeFolderIn(existsSync('/dev/shm') ? '/dev/shm' : tmpdir());

function makeFolderIn(place: string): string {
  const folder = mkdtempSync(join(place, 'damage-'));
  giveAway(folder);
  return folder;
}

type Settings = Readonly<Record<string, string>>;

/** A repository with one confirmed backup that is damaged, or an increment and the backup that it stands on, and what is needed to damage it cleverly. */
class Subject {
  readonly repository: TestRepository;
  readonly settings: Settings;
  readonly id: string;
  readonly olderId: string;
  archive!: Archive;
  manifest!: BackupManifest;
  parts: PartLine[] = [];
  /** Of an increment: hashes of the files that it restores to. */
  sound: Map<string, string> | undefined;
  readonly #changed = new Map<string, Buffer>();

  constructor(repository: TestRepository, settings: Settings, ids: { readonly id: string; readonly olderId: string }) {
    this.repository = repository;
    this.settings = settings;
    this.id = ids.id;
    this.olderId = ids.olderId;
  }

  async look(): Promise<this> {
    this.archive = await openArchive(this.context());
    this.manifest = await readManifest(this.archive, this.id);
    for await (const line of parseLines(this.read('files', this.manifest.files))) {
      if (line.type === 'part') this.parts.push(line);
    }
    return this;
  }

  context(libpq: Settings = {}) {
    const settings = { WALT_REPO: `file://${this.repository.root}`, WALT_WORKERS: '2', ...this.settings };
    return makeContext(settings, { workingDirectory: this.repository.folder, libpq });
  }

  read(part: StreamName['part'], commitment: BackupManifest['files'], backup = this.id) {
    return readStream(this.archive, { backup, part }, commitment, {});
  }

  path(name: string): string {
    return join(this.repository.root, this.archive.systemIdentifier, name);
  }

  get isIncrement(): boolean {
    return this.manifest.type === 'incremental';
  }

  /** Parts that it has stored itself. */
  get ownParts(): PartLine[] {
    return this.parts.filter(({ backup }) => backup === this.id);
  }

  /** The object of this name of the older backup, which was taken out of the repository unless it is the increment's parent. */
  older(name: string): Buffer {
    return readFileSync(join(this.repository.folder, 'older', name.replace(this.id, this.olderId)));
  }

  object(name: string): Buffer {
    return readFileSync(this.path(name));
  }

  change(name: string, content: Uint8Array | undefined): void {
    if (!this.#changed.has(name)) this.#changed.set(name, this.object(name));
    if (content === undefined) rmSync(this.path(name));
    else writeFileSync(this.path(name), content);
  }

  undo(): void {
    for (const [name, content] of this.#changed) {
      mkdirSync(dirname(this.path(name)), { recursive: true });
      writeFileSync(this.path(name), content);
    }
    this.#changed.clear();
  }

  /** What is sealed and stored by `store`, with other keys or for another cluster if told so. */
  async sealed<Result>(store: (archive: Archive) => Promise<Result>, name: string, members: Partial<Archive> = {}) {
    const folder = makeFolder('sealed');
    try {
      const storage = new FileStorage(folder, { idleMs: 10_000, requestMs: 10_000 });
      const archive = { ...this.archive, ...members, storage };
      const result = await store(archive);
      return { result, object: readFileSync(join(folder, archive.systemIdentifier, name)) };
    } finally {
      removeFolder(folder);
    }
  }

  /** Puts a part or a list in its place that holds `raw` and is sealed properly. @returns what to commit to. */
  async reseal(part: PartLine | 'files', raw: Uint8Array, members: Partial<Archive> = {}) {
    const stream = part === 'files' ? ({ backup: this.id, part } as const) : { backup: part.backup, part: part.number };
    const name = part === 'files' ? filesName(this.id) : nameOf(part);
    const store = (archive: Archive) => storeStream(archive, stream, bytesOf(raw), { level: 3, sizeHint: 0 });
    const { result, object } = await this.sealed(store, name, members);
    this.change(name, object);
    return result;
  }

  async forgeManifest(members: Partial<BackupManifest>, archive: Partial<Archive> = {}): Promise<void> {
    const name = manifestName(this.id);
    const store = (into: Archive) => storeManifest(into, { ...this.manifest, ...members }, { host: 'forger' });
    this.change(name, (await this.sealed(store, name, archive)).object);
  }

  /** Another list, and a manifest that commits to it: by somebody who knows the keys. */
  async forgeList(alter: (lines: readonly Record<string, unknown>[]) => readonly RawLine[]): Promise<void> {
    const text = (await joinBytes(this.read('files', this.manifest.files))).toString();
    const lines = text.trimEnd().split('\n').slice(0, -1);
    const altered = alter(lines.map((line) => JSON.parse(line)));
    expect(linesText(altered).equals(Buffer.from(`${lines.join('\n')}\n`))).toBe(false);
    await this.forgeManifest({ files: await this.reseal('files', await joinBytes(sealedList(altered))) });
  }

  rawPart(part: PartLine): Promise<Buffer> {
    return joinBytes(this.read(part.number, part, part.backup));
  }

  get keys() {
    return this.archive.keys;
  }
}

const nameOf = ({ backup, number }: PartLine) => partName(backup, number);

const keyFolder = makeFolder('keys');
const identityText = generateIdentity();
const identity = parseIdentity(identityText);
const subjects = new Map<string, Subject>();
const folders = [keyFolder, restoreFolder];

function encryption(): Settings {
  const [identities, auth] = [join(keyFolder, 'identity'), join(keyFolder, 'auth')];
  writeFileSync(identities, `${identityText}\n`, { mode: 0o600 });
  writeFileSync(auth, `${randomBytes(32).toString('hex')}\n`, { mode: 0o600 });
  for (const path of [identities, auth]) giveAway(path);
  return {
    WALT_AGE_RECIPIENTS: formatRecipient(identity),
    WALT_AGE_IDENTITY_FILE: identities,
    WALT_AUTH_KEY_FILE: auth,
  };
}

/** Parts of few files, so that a small cluster has many. */
async function push(context: ReturnType<Subject['context']>, pgdata: string, parent?: string): Promise<string> {
  const changed = limits as { partFiles: number };
  const { partFiles } = changed;
  changed.partFiles = 40;
  try {
    const choices = { pgdata, checkpoint: 'fast', annotations: {}, manifestChecksums: 'CRC32C' } as const;
    const { manifest } = await basebackupPush(context, { ...choices, incremental: parent !== undefined, parent });
    expect(manifest.type).toBe(parent === undefined ? 'full' : 'incremental');
    return manifest.id;
  } finally {
    changed.partFiles = partFiles;
  }
}

interface Making {
  readonly isPromoted?: boolean;
  readonly isIncrement?: boolean;
}

async function makeSubject(settings: Settings, { isPromoted, isIncrement }: Making): Promise<Subject> {
  const folder = makeFolder('damage');
  folders.push(folder);
  const repository = await new TestRepository({ folder, settings }).init();
  const server = PostgresServer.create({
    major: 17,
    settings: repository.serverSettings,
    checksums: true,
    isSmall: true,
  });
  try {
    const context = new Subject(repository, settings, { id: '', olderId: '' }).context({
      PGHOST: server.folder,
      PGUSER: 'postgres',
    });
    await server.start();
    await server.query(`create table t as select n, md5(n::text) from generate_series(1, 50000) n`);
    const olderId = await push(context, server.dataDirectory);
    await server.query(isIncrement === true ? 'update t set n = n + 1 where n % 200 = 0' : 'update t set n = n + 1');
    if (isIncrement === true) {
      await server.query('create table later as select n, md5((-n)::text) from generate_series(1, 50000) n');
    }
    if (isPromoted === true) {
      await server.stop();
      server.signal('recovery.signal');
      await server.open();
    }
    const id = await push(context, server.dataDirectory, isIncrement === true ? olderId : undefined);
    await server.waitUntilAllArchived();
    const subject = await new Subject(repository, settings, { id, olderId }).look();
    for (const kind of ['manifest', 'files', 'part', 'lease']) {
      mkdirSync(join(folder, 'older', kind), { recursive: true });
      cpSync(subject.path(`${kind}/${olderId}`), join(folder, 'older', kind, olderId), { recursive: true });
      if (isIncrement !== true) rmSync(subject.path(`${kind}/${olderId}`), { recursive: true });
    }
    // signs of life of a backup that was taken long ago
    const past = new Date(Date.now() - 3_600_000 * 5);
    for (const backup of readdirSync(subject.path('lease'))) {
      for (const name of readdirSync(subject.path(`lease/${backup}`))) {
        utimesSync(subject.path(`lease/${backup}/${name}`), past, past);
      }
    }
    if (account.uid !== undefined) {
      await run('chown', ['-R', `${account.uid}:${account.gid}`, repository.root], { asRoot: true });
    }
    return subject;
  } finally {
    await server.remove();
  }
}

beforeAll(async () => {
  // one after the other: each takes its backups in small parts, by a limit of all
  const encrypted = encryption();
  subjects.set('plain', await makeSubject({}, { isPromoted: true }));
  subjects.set('encrypted', await makeSubject(encrypted, {}));
  subjects.set('plain, of an increment', await makeSubject({}, { isIncrement: true }));
  subjects.set('encrypted, of an increment', await makeSubject(encrypted, { isIncrement: true }));
}, 600_000);

afterAll(() => folders.forEach(removeFolder));

interface Damage {
  readonly name: string;
  readonly damage: (subject: Subject) => Promise<void> | void;
  /** Recovery meets it, not a fetch of files. */
  readonly isOfWal?: true;
  /** A fetch gives what was backed up all the same. */
  readonly isHarmless?: true;
}

const random = seededRandom(20_261_120);
const pick = <Item>(items: readonly Item[]): Item => {
  const item = items[random(items.length)];
  if (item === undefined) throw new Error('nothing to pick');
  return item;
};

/** Where objects are of a kind; the parts in turn, by chance. */
const kinds = {
  part: ({ parts }: Subject) => nameOf(pick(parts)),
  'list of files': ({ id }: Subject) => filesName(id),
  manifest: ({ id }: Subject) => manifestName(id),
} as const;

/** All of them under TORTURE=1, else one in twelve of each sort. */
const each = (count: number, make: (index: number) => Damage) =>
  Array.from({ length: isTorture ? count : Math.ceil(count / 12) }, (_, index) => make(index));

/** Where a plain header tells people something that nothing is decided by: docs/FORMAT.md says that nobody would notice. */
function isForPeople(object: Buffer, place: number): boolean {
  const head = object.subarray(0, limits.headerBytes).toString('latin1');
  return [...head.matchAll(/"(?:host|pushedAt)":"[^"]*"/g)].some(
    ({ index, 0: { length } }) => place >= index && place < index + length,
  );
}

function flipped(object: Buffer, bits: number): Buffer {
  const bytes = Buffer.from(object);
  for (let bit = 0; bit < bits; bit += 1) {
    const place = random(bytes.length);
    if (isForPeople(object, place)) continue;
    bytes.writeUInt8(bytes.readUInt8(place) ^ (1 << random(8)), place);
  }
  return bytes.equals(object) ? flipped(object, bits) : bytes;
}

/** The same for every kind of object. */
const crude: Damage[] = Object.entries(kinds).flatMap(([kind, nameOf]) => {
  const way = (what: string, alter: (object: Buffer) => Uint8Array | undefined) => (index: number) => ({
    name: `${kind}: ${what} (${index})`,
    damage: (subject: Subject) => {
      const name = nameOf(subject);
      subject.change(name, alter(subject.object(name)));
    },
  });
  return [
    ...each(
      kind === 'part' ? 24 : 8,
      way('a bit flipped', (object) => flipped(object, 1)),
    ),
    ...each(
      2,
      way('many bits flipped', (object) => flipped(object, 50)),
    ),
    ...each(
      3,
      way('cut somewhere', (object) => object.subarray(0, random(object.length))),
    ),
    ...each(
      1,
      way('a byte short', (object) => object.subarray(0, -1)),
    ),
    ...each(
      1,
      way('a byte long', (object) => Buffer.concat([object, Buffer.alloc(1)])),
    ),
    ...each(
      1,
      way('followed by a skippable frame', (object) =>
        Buffer.concat([object, Buffer.from('502a4d1804000000walt', 'hex'), Buffer.alloc(4)]),
      ),
    ),
    ...each(
      1,
      way('followed by itself', (object) => Buffer.concat([object, object])),
    ),
    ...each(
      1,
      way('emptied', () => Buffer.alloc(0)),
    ),
    ...each(
      1,
      way('zeros of the same length', (object) => Buffer.alloc(object.length)),
    ),
    ...each(
      2,
      way('removed', () => undefined),
    ),
  ];
});

/** The plain layer of a stored object. */
async function plainOf({ keys }: Subject, object: Buffer): Promise<Buffer> {
  if (keys.identities.length === 0) return object;
  const { content } = await openAge(new ByteReader(bytesOf(object)), object.length, keys.identities);
  return joinBytes(content);
}

/** Another plain layer, encrypted anew where it has to be. */
async function replacePlain(subject: Subject, name: string, plain: Uint8Array): Promise<void> {
  const { recipients } = subject.keys;
  subject.change(name, recipients.length === 0 ? plain : await joinBytes(sealAge(bytesOf(plain), { recipients }).body));
}

/** By who was a recipient, too: the header stays to the last byte, the payload is another. @see H44 */
async function replacePayload(subject: Subject, name: string, plain: Uint8Array): Promise<void> {
  const { hkdfSync } = await import('node:crypto');
  const object = subject.object(name);
  const header = await readAgeHeader(new ByteReader(bytesOf(object)));
  const fileKey = header.stanzas.map((stanza) => unwrapFileKey(stanza, identity)).find((key) => key !== undefined);
  if (fileKey === undefined) throw new Error('no key');
  const head = object.subarray(0, header.sizeBytes + 16);
  const key = Buffer.from(hkdfSync('sha256', fileKey, head.subarray(header.sizeBytes), 'payload', 32));
  subject.change(name, Buffer.concat([head, await joinBytes(sealStream(key, bytesOf(plain)))]));
}

/** Takes the plain layer of a part apart, and puts it together again. */
function reframe(plain: Buffer, alter: (frames: Buffer[], entries: SeekEntry[]) => void): Buffer {
  const table = plain.subarray(plain.length - seekTableSize(plain.readUInt32LE(plain.length - 9)));
  const entries = [...decodeSeekTable(table)];
  let offset = 0;
  const frames = entries.map(({ storedBytes }) => {
    offset += storedBytes;
    return plain.subarray(offset - storedBytes, offset);
  });
  alter(frames, entries);
  return Buffer.concat([...frames, encodeSeekTable(entries)]);
}

const reframings: Readonly<Record<string, (frames: Buffer[], entries: SeekEntry[]) => void>> = {
  'with two frames in another order': (frames, entries) => {
    expect([entries[1]?.rawBytes, entries[2]?.rawBytes]).toEqual([limits.frameRawBytes, limits.frameRawBytes]);
    for (const list of [frames, entries] as unknown[][]) [list[1], list[2]] = [list[2], list[1]];
  },
  'with another checksum in its seek table': (_, entries) => {
    const [, entry] = entries;
    if (entry !== undefined) entries[1] = { ...entry, checksum: (entry.checksum ^ 1) >>> 0 };
  },
  'with a frame less': (frames, entries) => {
    for (const list of [frames, entries]) list.splice(1, 1);
  },
  'with a frame twice': (frames, entries) => {
    frames.splice(1, 0, frames[1] ?? Buffer.alloc(0));
    entries.splice(1, 0, entries[1] ?? { storedBytes: 0, rawBytes: 0, checksum: 0 });
  },
};

/** A part of at least two whole frames. */
const bigPart = ({ ownParts }: Subject) =>
  first(ownParts.filter(({ rawBytes }) => rawBytes > 2 * limits.frameRawBytes));
const lastPart = ({ ownParts }: Subject) => first(ownParts.filter(({ last }) => last === true));

function first(parts: readonly PartLine[]): PartLine {
  const [part] = parts;
  if (part === undefined) throw new Error('no such part');
  return part;
}

/** A part of another backup, if there is one. */
const notNamed = ({ parts, id }: Subject) => parts.find(({ backup }) => backup !== id) ?? parts.at(-1);

/** Where the pg_control of a backup begins in its last part. */
async function controlIn(subject: Subject): Promise<{ raw: Buffer; offset: number }> {
  const raw = await subject.rawPart(lastPart(subject));
  const offset = raw.indexOf('global/pg_control\0') + 512;
  return { raw, offset };
}

const clever: Damage[] = [
  ...each(6, (index) => ({
    name: `part: swapped with another of the backup (${index})`,
    damage: (subject) => {
      const place = random(subject.parts.length);
      const pair = [subject.parts[place], subject.parts[(place + 1) % subject.parts.length]];
      const [one = '', other = ''] = pair.map((part) => nameOf(part as PartLine));
      const object = subject.object(one);
      subject.change(one, subject.object(other));
      subject.change(other, object);
    },
  })),
  ...each(3, (index) => ({
    name: `part: that of the same number of an older backup (${index})`,
    damage: (subject) => {
      const name = nameOf(pick(subject.ownParts));
      subject.change(name, subject.older(name));
    },
  })),
  ...(['list of files', 'manifest'] as const).map((kind) => ({
    name: `${kind}: an older backup's`,
    damage: (subject: Subject) => subject.change(kinds[kind](subject), subject.older(kinds[kind](subject))),
  })),
  ...each(2, (index) => ({
    name: `part: another cluster's (${index})`,
    damage: async (subject) => {
      const part = pick(subject.parts);
      await subject.reseal(part, await subject.rawPart(part), { systemIdentifier: '7312345678901234567' });
    },
  })),
  {
    name: "list of files: another cluster's",
    damage: async (subject) => {
      const raw = await joinBytes(subject.read('files', subject.manifest.files));
      await subject.reseal('files', raw, { systemIdentifier: '7312345678901234567' });
    },
  },
  {
    name: "manifest: another cluster's",
    damage: (subject) => subject.forgeManifest({}, { systemIdentifier: '7312345678901234567' }),
  },
  ...each(3, (index) => ({
    name: `part: another content, sealed with the same keys (${index})`,
    damage: async (subject) => {
      const part = pick(subject.parts);
      const raw = await subject.rawPart(part);
      const place = random(raw.length);
      raw.writeUInt8(raw.readUInt8(place) ^ 1, place);
      await subject.reseal(part, raw);
    },
  })),
  ...Object.entries(reframings).map(([what, alter]) => ({
    name: `part: ${what}`,
    damage: async (subject: Subject) => {
      const name = nameOf(bigPart(subject));
      await replacePlain(subject, name, reframe(await plainOf(subject, subject.object(name)), alter));
    },
  })),
  {
    name: 'part: pg_control of another backup, whose CRC-32C is the same',
    damage: async (subject) => {
      const { raw, offset } = await controlIn(subject);
      const control = Buffer.from(raw.subarray(offset, offset + 8192));
      control.writeBigUInt64LE(control.readBigUInt64LE(32) - 8192n, 32); // the checkpoint's place
      const { crc32c } = await import('@node-rs/crc32');
      control.writeUInt32LE(crc32c(control.subarray(0, 288)), 288);
      expect(crc32c(control.subarray(0, 292))).toBe(crc32c(raw.subarray(offset, offset + 292))); // the constant
      control.copy(raw, offset);
      await subject.reseal(lastPart(subject), raw);
    },
  },
  {
    name: 'list of files: another checksum of a file',
    damage: (subject) =>
      subject.forgeList((lines) =>
        lines.map((line) => (line.path === 'PG_VERSION' ? { ...line, checksum: '00000000' } : line)),
      ),
  },
  {
    name: 'list of files: a file at another place of its part',
    damage: (subject) =>
      subject.forgeList((lines) =>
        lines.map((line) => (line.path === 'PG_VERSION' ? { ...line, extents: [[3, 0, 0]] } : line)),
      ),
  },
  {
    name: 'list of files: a path that leads out',
    damage: (subject) =>
      subject.forgeList((lines) =>
        lines.map((line) => (line.path === 'PG_VERSION' ? { ...line, path: '../x' } : line)),
      ),
  },
  {
    name: 'list of files: without backup_label',
    damage: (subject) => subject.forgeList((lines) => lines.filter(({ path }) => path !== 'backup_label')),
  },
  {
    name: 'manifest: uses fewer parts than it needs',
    damage: (subject) =>
      subject.forgeManifest({ uses: usesOf(subject.parts.filter((part) => part !== notNamed(subject))) }),
    isHarmless: true,
  },
  {
    name: 'manifest: uses parts of another backup',
    damage: (subject) => subject.forgeManifest({ uses: { [subject.olderId]: [[1, subject.parts.length]] } }),
    isHarmless: true,
  },
  {
    name: 'lease: no confirmation',
    damage: (subject) => subject.change(leaseName(subject.id, 'closed'), undefined),
  },
];

const segmentOf = ({ repository, manifest }: Subject) => {
  const name = segmentNameAt(manifest.timeline, manifest.startLsn, manifest.walSegmentBytes);
  return repository.object(name).slice(join(repository.root, manifest.systemIdentifier).length + 1);
};

const ofWal: Damage[] = [
  {
    name: 'WAL: a segment is removed',
    damage: (subject) => subject.change(segmentOf(subject), undefined),
    isOfWal: true,
  },
  {
    name: 'WAL: a segment is emptied',
    damage: (subject) => subject.change(segmentOf(subject), Buffer.alloc(0)),
    isOfWal: true,
  },
  ...each(4, (index) => ({
    name: `WAL: a bit of a segment is flipped (${index})`,
    damage: (subject) => subject.change(segmentOf(subject), flipped(subject.object(segmentOf(subject)), 1)),
    isOfWal: true,
  })),
];

const ofOnePart = (name: string, damage: (subject: Subject, name: string) => Promise<void> | void): Damage => ({
  name,
  damage: (subject) => damage(subject, nameOf(bigPart(subject))),
});

const ofPlain: Damage[] = [
  {
    name: 'WAL: the history of the timeline is removed',
    damage: (subject) => subject.change('wal/history/00000002.history', undefined),
    isOfWal: true,
  },
  {
    name: 'WAL: the history of the timeline is damaged',
    damage: (subject) =>
      subject.change('wal/history/00000002.history', flipped(subject.object('wal/history/00000002.history'), 1)),
    isOfWal: true,
  },
];

const ofEncrypted: Damage[] = [
  ...(['part', 'list of files', 'manifest'] as const).map((kind) => ({
    name: `${kind}: plain, where an encrypted one is expected (H44)`,
    damage: async (subject: Subject) => {
      const name = kinds[kind](subject);
      subject.change(name, await plainOf(subject, subject.object(name)));
    },
  })),
  ...(['part', 'list of files'] as const).map((kind) => ({
    name: `${kind}: the same content under a new age header (H44, H45)`,
    damage: async (subject: Subject) => {
      const name = kinds[kind](subject);
      await replacePlain(subject, name, await plainOf(subject, subject.object(name)));
    },
  })),
  ofOnePart('part: another content under the identical age header (H44)', async (subject, name) => {
    const plain = await plainOf(subject, subject.object(name));
    await replacePayload(
      subject,
      name,
      reframe(plain, reframings['with two frames in another order'] ?? (() => undefined)),
    );
  }),
  {
    name: 'manifest: written without the authentication key',
    damage: (subject) => subject.forgeManifest({}, { keys: { ...subject.keys, authKey: undefined } }),
  },
  {
    name: 'manifest: written with another authentication key',
    damage: (subject) => subject.forgeManifest({}, { keys: { ...subject.keys, authKey: randomBytes(32) } }),
  },
  {
    name: 'manifest: encrypted to somebody else',
    damage: (subject) =>
      subject.forgeManifest({}, { keys: { ...subject.keys, recipients: [parseIdentity(generateIdentity())] } }),
  },
];

function subjectOf(kind: string): Subject {
  const subject = subjects.get(kind);
  if (subject === undefined) throw new Error(kind);
  return subject;
}

/** A damaged recipient's stanza cannot be told from a wrong key: that is no verdict, but an error that names the object. */
async function expectVerdict(subject: Subject, name: string | undefined): Promise<void> {
  const result = await verify(subject.context(), { name, deep: true }).catch((error: unknown) => error);
  if (result instanceof WrongKeyError) {
    expect(subject.keys.identities).not.toEqual([]);
    expect(result.message).toMatch(subject.id);
    return;
  }
  if (result instanceof Error) throw result;
  const { verdicts } = result as VerifyResult;
  const verdict = verdicts.find(({ id }) => id === subject.id);
  expect(isSound(result as VerifyResult)).toBe(false);
  expect(verdict).toMatchObject({
    isRestorable: false,
    reasons: [expect.any(String), ...(verdict?.reasons.slice(1) ?? [])],
  });
}

async function expectFound(subject: Subject, { isOfWal, isHarmless }: Damage): Promise<void> {
  await expectVerdict(subject, isOfWal === true ? undefined : subject.id); // without a name all WAL is hashed
  if (isOfWal === true || isHarmless === true) return;
  const dir = join(restoreFolder, 'restored');
  const error = await fetchInto(subject, dir).then(
    () => undefined,
    (error: unknown) => error,
  );
  const { sound } = subject;
  if (error === undefined && sound !== undefined) {
    // in a part of the parent the damage may stand where nothing is needed
    expect(differences(sound, await hashFiles(dir, 17))).toEqual([]);
    return;
  }
  expect(error).toBeInstanceOf(WalTError);
  expect((error as WalTError).message).not.toBe('');
  expect(existsSync(join(dir, 'global/pg_control'))).toBe(false);
}

function fetchInto(subject: Subject, dir: string, resume = false) {
  return basebackupFetch(subject.context(), { dir, name: subject.id, tablespaceMapping: new Map(), resume });
}

function everySecond(damages: readonly Damage[], turn: number): readonly Damage[] {
  return damages.filter((_, index) => isTorture || index % 2 === turn);
}

describe.each([
  { kind: 'plain', turn: 0, own: ofPlain },
  { kind: 'encrypted', turn: 1, own: everySecond(ofEncrypted, 0) },
  { kind: 'plain, of an increment', turn: 2, own: [] },
  { kind: 'encrypted, of an increment', turn: 3, own: everySecond(ofEncrypted, 1) },
])('a damaged backup in a repository that is $kind', ({ kind, turn, own }) => {
  it('is restorable before it is damaged', async () => {
    const subject = subjectOf(kind);
    expect(subject.ownParts.length).toBeGreaterThan(subject.isIncrement ? 1 : 5);
    expect(subject.parts.length > subject.ownParts.length).toBe(subject.isIncrement);
    const result = await verify(subject.context(), { deep: true });
    expect(result.verdicts.length).toBe(subject.isIncrement ? 2 : 1);
    expect(result.verdicts.at(-1)).toMatchObject({ id: subject.id, isRestorable: true, reasons: [] });
    expect(isSound(result)).toBe(true);
    const dir = join(restoreFolder, 'sound');
    await fetchInto(subject, dir);
    expect(existsSync(join(dir, 'global/pg_control'))).toBe(true);
    if (subject.isIncrement) subject.sound = await hashFiles(dir, 17);
    removeFolder(dir);
  });

  /** In the suite each of them meets one of the four. */
  const isMet = (index: number) => isTorture || index % 4 === turn;

  it.each([...[...crude, ...clever, ...ofWal].filter((_, index) => isMet(index)), ...own])(
    'is found, and never restored silently: $name',
    async (damage) => {
      const subject = subjectOf(kind);
      try {
        await damage.damage(subject);
        await expectFound(subject, damage);
      } finally {
        subject.undo();
        rmSync(join(restoreFolder, 'restored'), { recursive: true, force: true });
      }
    },
  );
});

it.each(isTorture ? ['plain', 'encrypted'] : ['encrypted'])(
  'says so with exit codes, through the launchers, of a repository that is %s',
  async (kind) => {
    const subject = subjectOf(kind);
    const { repository, id } = subject;
    const dir = join(restoreFolder, 'restored');
    const verified = () => repository.run('wal-t', ['verify', '--deep'], { env: { WALT_WORKERS: '2' } });
    expect(await verified()).toMatchObject({ code: 0 });
    try {
      const name = nameOf(bigPart(subject));
      subject.change(name, flipped(subject.object(name), 1));
      const { code, stdout } = await verified();
      expect([code, stdout]).toEqual([exitCodes.check, expect.stringContaining(`${id}: not restorable, because`)]);
      const fetched = await repository.run('basebackup-fetch', [dir, id], { env: { WALT_WORKERS: '2' } });
      expect(fetched).toMatchObject({
        code: exitCodes.corrupt,
        stderr: expect.stringMatching(/error: .*damaged[\s\S]*hint: /),
      });
      expect(existsSync(join(dir, 'global/pg_control'))).toBe(false);
    } finally {
      subject.undo();
      rmSync(dir, { recursive: true, force: true });
    }
    const segment = segmentOf(subject);
    subject.change(segment, undefined);
    try {
      const shallow = await repository.run('wal-t', ['verify']);
      expect(shallow).toMatchObject({
        code: exitCodes.check,
        stdout: expect.stringMatching(/not restorable, because segment "[0-9A-F]{24}"/),
      });
    } finally {
      subject.undo();
    }
  },
);
