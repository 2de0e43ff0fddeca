/**
 * A proxy in front of an S3 server, on a free port of 127.0.0.1, whose faults are switched while it is in use.
 * It passes the client's Host header on as it was signed, so that the server behind must be one that takes it, as S3Server does;
 * only a request that a fault changes is signed anew. HTTP/1.1, buckets addressed by path.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { Agent, createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Bytes } from '../../src/bytes.ts';
import { seededRandom } from './random.ts';
import {
  Break,
  buffered,
  describeRequest,
  type Fault,
  fault,
  flat,
  type Kind,
  type Next,
  type S3Answer,
  type S3Request,
  untilGone,
} from './s3-exchange.ts';
import type { S3Endpoint } from './s3-server.ts';

/** Which requests; all conditions together. */
export interface Which {
  readonly method?: string;
  readonly kind?: Kind | readonly Kind[];
  /** The whole key, or a pattern of it. */
  readonly key?: string | RegExp;
}

export interface When extends Which {
  readonly also?: (request: Described) => boolean;
  /** Of the requests that match this one alone, counted from 1. */
  readonly nth?: number;
  /** No more than so many requests. */
  readonly times?: number;
  /** Counted from now. */
  readonly forMs?: number;
  /** The share of requests, from 0 to 1; which ones follows from the seed, the key and how often it was asked for, not from the order. */
  readonly rate?: number;
}

type Described = ReturnType<typeof describeRequest>;

/** What became of a request. */
export interface LogEntry extends Pick<Described, 'method' | 'kind' | 'key'> {
  readonly faults: readonly string[];
  /** What the server answered, when it was asked. */
  readonly answered: number | undefined;
  /** What the client was told. */
  readonly told: number | undefined;
  readonly ended: 'running' | 'whole' | Break['how'] | 'client gone' | 'server gone';
}

/** A fault that is on. */
export interface Injection {
  /** How many requests it met. */
  readonly hits: number;
  stop(): void;
}

/** A request that waits. */
export interface Pause {
  readonly reached: Promise<void>;
  release(): void;
}

export interface PauseOptions {
  /** When the proxy has the whole request and the server nothing, or `after` the server has answered. */
  readonly stage?: 'before' | 'after';
  /** The server gets it though its client has gone meanwhile: it lands late. Only `before`. */
  readonly evenIfGone?: boolean;
}

type Writable<T> = { -readonly [member in keyof T]: T[member] };

interface Rule extends Injection {
  readonly choose: (request: Described) => Fault | undefined;
}

export class FaultProxy {
  readonly #behind: S3Endpoint;
  readonly #seed: number;
  readonly #server = createServer({ requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0 });
  readonly #agent = new Agent();
  readonly #log: Writable<LogEntry>[] = [];
  #rules: Rule[] = [];
  #ruleCount = 0;
  #port = 0;
  #connections = 0;

  private constructor(behind: S3Endpoint, seed: number) {
    this.#behind = behind;
    this.#seed = seed;
    this.#server.on('connection', () => {
      this.#connections += 1;
    });
    this.#server.on('request', (request, response) => this.#serve(request, response));
    this.#server.on('checkContinue', (request, response) => this.#serve(request, response));
  }

  /** The same seed, the same requests hit by a `rate`. */
  static async start(behind: S3Endpoint, { seed = 1 } = {}): Promise<FaultProxy> {
    const proxy = new FaultProxy(behind, seed);
    await proxy.up();
    return proxy;
  }

  /** For clients: the server as it is seen through the proxy. */
  get s3(): S3Endpoint {
    const endpoint = new URL(this.#behind.endpoint);
    return { ...this.#behind, endpoint: `http://127.0.0.1:${this.#port}${endpoint.pathname.replace(/\/$/, '')}` };
  }

  /** Lets a fault happen, or one of several by chance. Several at the same time work from the first, nearest the client, to the last. */
  inject(faults: Fault | readonly Fault[], when: When = {}): Injection {
    const choices = Array.isArray(faults) ? faults : [faults];
    const draw = drawer(`${this.#seed}/${this.#ruleCount++}`, when.rate ?? 1, choices);
    const untilMs = performance.now() + (when.forMs ?? Number.POSITIVE_INFINITY);
    let matched = 0;
    const choose = (request: Described): Fault | undefined => {
      if (!matches(request, when) || when.also?.(request) === false) return undefined;
      matched += 1;
      if (when.nth !== undefined && matched !== when.nth) return undefined;
      if (rule.hits >= (when.times ?? Number.POSITIVE_INFINITY) || performance.now() > untilMs) return undefined;
      const chosen = draw(request);
      if (chosen !== undefined) rule.hits += 1;
      return chosen;
    };
    const stop = () => {
      this.#rules = this.#rules.filter((other) => other !== rule);
    };
    const rule = { hits: 0, choose, stop };
    this.#rules.push(rule);
    return rule;
  }

  /** Ends all faults; requests that are under way keep theirs. */
  heal(): void {
    this.#rules = [];
  }

  /** Makes one request wait, the first that matches unless told otherwise. */
  pause(when: When, { stage = 'before', evenIfGone = false }: PauseOptions = {}): Pause {
    const [reached, reach] = gate();
    const [released, release] = gate();
    const waiting = async (signal: AbortSignal) => {
      reach();
      await (evenIfGone ? released : Promise.race([released, untilGone(signal)]));
    };
    const paused = fault('paused', async (request, next) => {
      if (stage === 'after') {
        const answer = await next(request);
        await waiting(request.signal);
        return answer;
      }
      const taken = await buffered(request);
      await waiting(request.signal);
      return next(evenIfGone ? { ...taken, signal: new AbortController().signal } : taken);
    });
    this.inject(paused, { times: 1, ...when });
    return { reached, release };
  }

  /** What became of every request, in the order in which they came. */
  get log(): readonly LogEntry[] {
    return this.#log;
  }

  /** How many requests came. */
  count(which: Which = {}): number {
    return this.#log.filter((entry) => matches(entry, which)).length;
  }

  /** How many connections clients have opened. */
  get connections(): number {
    return this.#connections;
  }

  /** Forgets the requests and connections that came. */
  forget(): void {
    this.#log.length = 0;
    this.#connections = 0;
  }

  /** Refuses connections, and resets those that are there, until `up`. */
  async down(): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  /** Accepts connections again, at the same port. */
  async up(): Promise<void> {
    this.#server.listen(this.#port, '127.0.0.1');
    await once(this.#server, 'listening');
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  /** Ends the proxy and every connection. */
  async stop(): Promise<void> {
    if (this.#server.listening) await this.down();
  }

  async #serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController();
    response.once('close', () => gone.abort(new Break('closed')));
    const described = describeRequest(incoming, new URL(this.s3.endpoint).pathname);
    const { method, kind, key } = described;
    const faults = this.#rules.flatMap((rule) => rule.choose(described) ?? []);
    const entry: Writable<LogEntry> = {
      method,
      kind,
      key,
      faults: faults.map(({ name }) => name),
      answered: undefined,
      told: undefined,
      ended: 'running',
    };
    this.#log.push(entry);
    const server: Next = async (request) => {
      const answer = await this.#forward(request);
      entry.answered = answer.status;
      return answer;
    };
    const next = faults.reduceRight<Next>(
      (next, { run }) =>
        (request) =>
          run(request, next),
      server,
    );
    try {
      const bodies = { body: bodyOf(incoming, response), bodyWithoutContinue: bodyOf(incoming) };
      const answer = await next({ ...described, ...bodies, signal: gone.signal, s3: this.#behind });
      entry.told = answer.status;
      entry.ended = 'whole';
      await send(response, answer, gone.signal);
    } catch (error) {
      entry.ended = gone.signal.aborted ? 'client gone' : error instanceof Break ? error.how : 'server gone';
      if (entry.ended === 'closed') response.socket?.destroySoon();
      else response.socket?.resetAndDestroy();
    }
  }

  #forward({ method, path, headers, body, signal }: S3Request): Promise<S3Answer> {
    const { hostname: host, port } = new URL(this.#behind.endpoint);
    return new Promise((resolve, reject) => {
      const sending = httpRequest({ host, port, method, path, headers, agent: this.#agent, signal });
      sending.on('response', (answer) =>
        resolve({ status: answer.statusCode ?? 0, headers: flat(answer.headers), body: answer }),
      );
      pipeline(Readable.from(body, { objectMode: false }), sending).catch(reject);
      sending.on('error', reject);
    });
  }
}

function matches(request: Pick<Described, 'method' | 'kind' | 'key'>, { method, kind, key }: Which): boolean {
  if (method !== undefined && method !== request.method) return false;
  if (kind !== undefined && ![kind].flat().includes(request.kind)) return false;
  return key === undefined || (typeof key === 'string' ? key === request.key : key.test(request.key));
}

/** Draws by the key and how often it was asked for, so that requests at the same time do not change each other's fate. */
function drawer(seed: string, rate: number, faults: readonly Fault[]): (request: Described) => Fault | undefined {
  const asked = new Map<string, number>();
  return ({ kind, key }) => {
    const what = `${kind} ${key}`;
    asked.set(what, (asked.get(what) ?? 0) + 1);
    const digest = createHash('sha256')
      .update(`${seed}/${what}/${asked.get(what)}`)
      .digest();
    const random = seededRandom(digest.readUInt32LE());
    const limit = 2 ** 30;
    return random(limit) < rate * limit ? faults[random(faults.length)] : undefined;
  };
}

function gate(): [promise: Promise<void>, open: () => void] {
  let open = (): void => undefined;
  const promise = new Promise<void>((resolve) => {
    open = resolve;
  });
  return [promise, open];
}

/** The request's body; asks for it where the client waits to be asked and `response` is given. */
async function* bodyOf(incoming: IncomingMessage, response?: ServerResponse): Bytes & AsyncGenerator<Uint8Array> {
  if (incoming.headers.expect !== undefined) response?.writeContinue();
  yield* incoming;
}

async function send(response: ServerResponse, { status, headers, body }: S3Answer, signal: AbortSignal): Promise<void> {
  response.writeHead(status, headers);
  response.flushHeaders();
  const gone = untilGone(signal);
  gone.catch(() => undefined);
  for await (const chunk of body) {
    await Promise.race([new Promise((resolve) => response.write(chunk, resolve)), gone]);
  }
  response.end();
}
