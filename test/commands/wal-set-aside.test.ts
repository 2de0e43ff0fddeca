/** wal-set-aside beside another one, a deletion, and after its own death: nothing that was archived is lost, whichever way they meet. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { publishPlan } from '../../src/archive/deletion-plan.ts';
import { objectKey, walObjectName } from '../../src/archive/keys.ts';
import { getDocument, putDocument } from '../../src/archive/sealed-document.ts';
import { collect } from '../../src/bytes.ts';
import { deleteBackups } from '../../src/commands/delete.ts';
import { walSetAside } from '../../src/commands/wal-set-aside.ts';
import { CheckError, NotFoundError, ObjectExists, ObjectNotFound } from '../../src/errors.ts';
import { parseWalFileName } from '../../src/postgres/wal-file-name.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { makeContext } from '../support/context.ts';
import { temporaryFolder } from '../support/folders.ts';
import { makeArchive } from '../support/forged-backup.ts';
import { GatedStorage } from '../support/gated-storage.ts';
import { testSystemIdentifier } from '../support/segment.ts';

const name = '000000010000000000000003';
const [wrong, right] = [Buffer.from('of the wrong server'), Buffer.from('of the right server')];
const host = 'test-host';

/** An archive that holds the wrong file. */
async function place() {
  const root = join(temporaryFolder(), 'repo');
  mkdirSync(root);
  const archive = await makeArchive(root);
  const file = parseWalFileName(name);
  if (file === undefined) throw new Error('no segment');
  const key = objectKey(testSystemIdentifier, walObjectName(file));
  const { storage } = archive;
  await storage.put(key, wrong);
  const context = (through: Storage) =>
    makeContext({ WALT_REPO: `file://${root}` }, { workingDirectory: root, openStorage: () => through });
  const contents = async (prefix: string) => {
    const found: string[] = [];
    for await (const { key: one } of storage.list(`${testSystemIdentifier}/${prefix}`)) {
      found.push(String(await collect((await storage.get(one)).body, 1000)));
    }
    return found;
  };
  return {
    archive,
    key,
    storage,
    contents,
    setAside: (through: Storage = storage) => walSetAside(context(through), { name, confirm: true }),
    delete: () => deleteBackups(context(storage), { sweep: true, confirm: true }),
    /** What PostgreSQL's archiver tries again and again. @returns whether it is durable. */
    push: async () => {
      const failure = await storage.put(key, right, { ifAbsent: true }).catch((error: unknown) => error);
      if (failure !== undefined) expect(failure).toBeInstanceOf(ObjectExists);
      return failure === undefined;
    },
    stored: () =>
      storage.get(key).then(
        async ({ body }) => String(await collect(body, 1000)),
        (error: unknown) => {
          if (!(error instanceof ObjectNotFound)) throw error;
        },
      ),
  };
}

it('H13: of two at once none takes what the right server archives in between, wherever either is', async () => {
  let stop = 1;
  for (let ran = false; !ran; stop += 1) {
    const { key, storage, setAside, push, stored, contents } = await place();
    const gated = new GatedStorage(storage, stop);
    const first = setAside(gated).catch((error: unknown) => error);
    await Promise.race([gated.reached, first]);
    ran = !gated.hasStopped;
    const second = await setAside().catch((error: unknown) => error);
    const wasPushed = await push();
    const hasSeen = gated.passed.includes(key);
    gated.letOn();
    for (const outcome of [await first, second]) {
      expect(outcome).toSatisfy(
        (one) =>
          one instanceof CheckError || one instanceof NotFoundError || (one as { moved?: boolean }).moved === true,
      );
    }
    // one that had not looked yet moves what it finds, as it is told to
    const places = hasSeen ? [await stored()] : [await stored(), ...(await contents('set-aside/'))];
    if (wasPushed) expect(places).toContain(String(right));
    expect([...(await contents('set-aside/')), await stored()]).toContain(String(wrong));
    expect(await contents('plan/')).toEqual([]);
  }
  expect(stop).toBeGreaterThan(6);
});

it('gives way to a deletion, and a deletion to it', async () => {
  const { archive, setAside, delete: sweep, stored } = await place();
  const plan = await publishPlan(archive, { parts: new Map(), wal: [] }, { host });
  await expect(setAside()).rejects.toThrow('another deletion is running');
  await expect(sweep()).rejects.toThrow('another deletion is running, or a wal-set-aside');
  expect(await stored()).toBe(String(wrong));
  await archive.storage.delete([objectKey(testSystemIdentifier, plan)]);
  expect((await setAside()).moved).toBe(true);
});

it('does again what one did that died, and clears its plan away', async () => {
  const { archive, storage, setAside, contents, stored } = await place();
  const plan = await publishPlan(archive, { parts: new Map(), wal: [[name, name]] }, { host });
  const other = await publishPlan(archive, { parts: new Map([['another', [[1, 2]]]]), wal: [] }, { host });
  for (const one of [plan, other]) {
    const document = await getDocument(archive, { kind: 'plan', name: one });
    await storage.delete([objectKey(testSystemIdentifier, one)]);
    const owner = String(document.owner).replace(/^\d+/, '4194305'); // no process has this id
    await putDocument(archive, { kind: 'plan', name: one }, { ...document, owner }, { host });
  }
  expect(await setAside()).toMatchObject({ moved: true, sizeBytes: wrong.length });
  expect([await stored(), await contents('set-aside/')]).toEqual([undefined, [String(wrong)]]);
  expect(await contents('plan/')).toHaveLength(1); // a deletion's, which the next deletion finishes
});
