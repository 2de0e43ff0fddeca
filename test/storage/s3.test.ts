/** The storage in a bucket: the contract against a real S3 server that we did not write, and through every fault that the field knows. */
import { afterAll, beforeAll, onTestFinished, vi } from 'vitest';
import { type Bytes, bytesOf, collect } from '../../src/bytes.ts';
import { ObjectExists } from '../../src/errors.ts';
import type { PutOptions, Storage } from '../../src/storage/storage.ts';
import { FaultProxy, type When } from '../support/fault-proxy.ts';
import {
  delayAnswer,
  delayRequest,
  loseAnswer,
  misstateLength,
  reset,
  resetDownload,
  resetUpload,
  shorten,
  stall,
  stallDownload,
  stallUpload,
  swallowContinue,
  trickleDownload,
  trickleUpload,
  truncate,
} from '../support/network-faults.ts';
import type { Fault, Kind } from '../support/s3-exchange.ts';
import { S3Server } from '../support/s3-server.ts';
import { openS3Storage } from '../support/s3-storage.ts';
import {
  conflict,
  errorInOk,
  falsePreconditionFailed,
  gatewayError,
  internalError,
  slowDown,
  tooManyRequests,
  wrongDate,
} from '../support/store-faults.ts';
import { contentOf, describeStorage } from './conformance.ts';

vi.mock(import('../../src/limits.ts'), async (original) =>
  (await import('../support/short-pauses.ts')).withShortPauses(await original()),
);

let server: S3Server;

beforeAll(async () => {
  server = await S3Server.start();
});

afterAll(() => server.stop());

describeStorage('S3', () => openS3Storage(server.s3));

interface Profile {
  readonly faults: Fault | readonly Fault[];
  readonly when?: When;
  /** Milliseconds: short where the fault is silence. */
  readonly idleMs?: number;
}

const objects: readonly Kind[] = ['PutObject', 'GetObject', 'UploadPart'];

/** How the network and stores fail, each on a share of the requests. */
const profiles: Readonly<Record<string, Profile>> = {
  'late requests and answers': { faults: [delayRequest(15), delayAnswer(15)], when: { rate: 0.5 } },
  'resets before, within and behind what is sent': {
    faults: [reset, resetUpload(), resetUpload(-1), resetDownload(), resetDownload(-1), resetDownload(0)],
    when: { rate: 0.2 },
  },
  'lost answers': { faults: loseAnswer, when: { rate: 0.2 } },
  'false 412': { faults: falsePreconditionFailed, when: { rate: 0.3, kind: 'PutObject' } },
  'a storm of 503': { faults: [slowDown(), internalError, gatewayError], when: { rate: 0.4 } },
  'a storm of 503 and 429 with Retry-After': { faults: [slowDown(1), tooManyRequests], when: { rate: 0.4 } },
  'errors told before the body is read': { faults: [slowDown(), resetUpload(0)], when: { rate: 0.2 } },
  'truncated and broken answers': { faults: [truncate(), truncate(0), truncate(-1)], when: { rate: 0.3 } },
  'answers cut with their length': { faults: [shorten(), shorten(-1)], when: { rate: 0.3, kind: 'GetObject' } },
  'a wrong Content-Length': {
    faults: [misstateLength(5), misstateLength(-3)],
    when: { rate: 0.03, kind: 'GetObject' },
    idleMs: 300,
  },
  'a slow trickle': {
    faults: [trickleUpload(200_000_000), trickleDownload(200_000_000)],
    when: { rate: 0.5, kind: objects },
  },
  silence: { faults: [stall, stallUpload(), stallDownload()], when: { rate: 0.02 }, idleMs: 300 },
  '200 with an error': { faults: [errorInOk(), errorInOk('SlowDown')], when: { rate: 0.3 } },
  'HTML errors': { faults: gatewayError, when: { rate: 0.3 } },
  '409 for conditional requests': { faults: conflict, when: { rate: 0.3, kind: 'PutObject' } },
  'no 100-continue': { faults: swallowContinue },
  'a wrong Date': { faults: [wrongDate(3_000), wrongDate(-600_000)], when: { rate: 0.5 } },
};

for (const [name, { faults, when, idleMs = 30_000 }] of Object.entries(profiles)) {
  const open = async (): Promise<Storage> => {
    const proxy = await FaultProxy.start(server.s3, { seed: 7 });
    onTestFinished(() => proxy.stop());
    proxy.inject(faults, when);
    return new Resolving(await openS3Storage(proxy.s3, { times: { idleMs } }), proxy);
  };
  describeStorage(`S3 behind ${name}`, open, { manyKeys: 40, sequences: 2, oneIn: 40 });
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
      const own = this.#proxy.log
        .slice(before)
        .some((entry) => entry.key.endsWith(`/${key}`) && entry.answered === 200 && entry.faults.length > 0);
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
