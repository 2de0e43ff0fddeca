/** The storage behind a fault proxy, as the contract's tests are run on it: one profile for each way in which the field fails. */
import { afterAll, beforeAll, onTestFinished } from 'vitest';
import { type Bytes, bytesOf, collect } from '../../src/bytes.ts';
import { ObjectExists } from '../../src/errors.ts';
import type { PutOptions, Storage } from '../../src/storage/storage.ts';
import { FaultProxy, type LogEntry, type When } from '../support/fault-proxy.ts';
import type { Fault } from '../support/s3-exchange.ts';
import { S3Server } from '../support/s3-server.ts';
import { openS3Storage } from '../support/s3-storage.ts';
import { smallPages } from '../support/store-faults.ts';
import { contentOf, describeStorage } from './conformance.ts';

const isTorture = process.env.TORTURE === '1';

export interface Profile {
  readonly faults: Fault | readonly Fault[];
  readonly when?: When;
  /** Milliseconds: short where the fault is silence. */
  readonly idleMs?: number;
  /** Meets no code of its own: for TORTURE=1. */
  readonly isLeftOut?: boolean;
}

/** Runs the contract behind each profile; `andDirectly` without any, too. */
export function describeProfiles(profiles: Readonly<Record<string, Profile>>, { andDirectly = false } = {}): void {
  let server: S3Server;
  let opened = 0;
  beforeAll(async () => {
    server = await S3Server.start();
  });
  afterAll(() => server.stop());
  // by number, so that the proxy's choice is the same in every run
  const prefix = (): string => `storage-${opened++}`;
  const brief = { manyKeys: 40, sequences: 2, oneIn: 40, isBrief: true };
  if (andDirectly) {
    const directly = () => openS3Storage(server.s3, { prefix: prefix() });
    // a page of the server has 1,000 keys: in the suite it is told to make smaller ones
    describeStorage('S3', directly, isTorture ? {} : { manyKeys: 40, oneIn: 5 });
    describeStorage('S3 in small pages', () => openBehind({ faults: smallPages(15) }), brief);
  }
  // each second one here, all of them under `npm run torture`
  const chosen = Object.entries(profiles).filter(
    ([_, { isLeftOut }], index) => isTorture || (index % 2 === 0 && isLeftOut !== true),
  );
  for (const [name, profile] of chosen) describeStorage(`S3 behind ${name}`, () => openBehind(profile), brief);

  async function openBehind({ faults, when, idleMs = 30_000 }: Profile): Promise<Storage> {
    const proxy = await FaultProxy.start(server.s3, { seed: 7 });
    onTestFinished(() => proxy.stop());
    proxy.inject(faults, when);
    return new Resolving(await openS3Storage(proxy.s3, { prefix: prefix(), times: { idleMs } }), proxy);
  }
}

/**
 * A put whose answer was lost, or told as a false 412, meets its own object and says "exists": whether it is the same is told one layer
 * above, in archive/wal-archive.ts, by content. So is it here, and only where the server had stored this put and the client was not told.
 */
class Resolving implements Storage {
  readonly url: string;
  readonly get: Storage['get'];
  readonly list: Storage['list'];
  readonly delete: Storage['delete'];
  readonly #inner: Storage;
  readonly #proxy: FaultProxy;

  constructor(inner: Storage, proxy: FaultProxy) {
    this.url = inner.url;
    this.#inner = inner;
    this.#proxy = proxy;
    this.get = inner.get.bind(inner);
    this.list = inner.list.bind(inner);
    this.delete = inner.delete.bind(inner);
  }

  async put(key: string, body: Uint8Array | Bytes, options?: PutOptions): Promise<void> {
    const [before, sent] = [this.#proxy.log.length, new Sent(body)];
    try {
      await this.#inner.put(key, sent.body, options);
    } catch (error) {
      if (!(error instanceof ObjectExists) || options?.signal?.aborted === true) throw error;
      const own = this.#proxy.log.slice(before).some((entry) => entry.key.endsWith(`/${key}`) && isUnclear(entry));
      if (!own || !(await contentOf(this.#inner, key)).equals(await sent.content())) throw error;
    }
  }
}

/** A body that is kept while it is sent. */
class Sent {
  readonly body: Uint8Array | Bytes;
  readonly #chunks: Uint8Array[] = [];
  constructor(body: Uint8Array | Bytes) {
    this.body = body instanceof Uint8Array ? body : this.#keep(body);
    if (body instanceof Uint8Array) this.#chunks.push(body);
  }
  content(): Promise<Buffer> {
    return collect(bytesOf(...this.#chunks), 64 * 1024 * 1024);
  }
  async *#keep(body: Bytes): AsyncGenerator<Uint8Array> {
    for await (const chunk of body) {
      this.#chunks.push(chunk);
      yield chunk;
    }
  }
}

/** May the server have stored what this request put, though the client was not told? */
function isUnclear({ answered, faults, ended }: LogEntry): boolean {
  return answered === 200 ? faults.length > 0 || ended !== 'whole' : answered === undefined && faults.length === 0;
}
