/**
 * A real S3 server that is not ours: the S3 endpoint of Cloudflare R2 as miniflare runs it on this host, on a free port of 127.0.0.1.
 *
 * It verifies signatures, payload hashes and Content-MD5, pages listings by 1,000, and stores `If-None-Match: *` atomically.
 * The client's Host header is taken as it was signed, so that a proxy on this host need not sign anew.
 * What it does not do:
 * - create, delete or version buckets; list multipart uploads or parts (501); session tokens (400);
 *   storage classes but STANDARD, KMS, SSE-C (501); AES256 is accepted and not told back;
 * - decode aws-chunked bodies: it stores the chunk headers as content; x-amz-checksum headers are neither checked nor told back;
 * - look at If-None-Match when a multipart upload is completed: it replaces the object;
 * - answer 100-continue: whoever expects it waits in vain;
 * - check the region, or who asks for an unknown bucket (404 whatever the keys); an unknown access key is a 401, not AWS's 403;
 * - name failed keys in the answer to a DeleteObjects, or heed its Quiet.
 * An empty object has no range: 416, as on AWS. Parts are equal in size and at least 5 MiB but for the last (404 NoSuchUpload or 400).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeFolder } from './folders.ts';
import { checkout } from './installation.ts';

/** Where a bucket is and with which keys; addressed by path. */
export interface S3Endpoint {
  /** A URL, which may have a path of its own. */
  readonly endpoint: string;
  readonly region: string;
  readonly bucket: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export class S3Server {
  readonly s3: S3Endpoint;
  readonly #process: ChildProcess;
  readonly #logFile: string;

  private constructor(s3: S3Endpoint, process: ChildProcess, logFile: string) {
    this.s3 = s3;
    this.#process = process;
    this.#logFile = logFile;
  }

  /** Starts a server with empty buckets, in about a second: share it, each test under a prefix of its own. `s3` is of the first bucket. */
  static async start({ buckets = ['wal-t-test'] }: { readonly buckets?: readonly string[] } = {}): Promise<S3Server> {
    const keys = { accessKeyId: 'TESTACCESSKEY', secretAccessKey: 'test-secret+of/the=store' };
    const folder = makeFolder('s3');
    const logFile = join(folder, 'log');
    const log = openSync(logFile, 'a');
    const script = fileURLToPath(new URL('s3-server.mjs', import.meta.url));
    const settings = JSON.stringify({ folder, buckets, ...keys });
    const child = spawn(process.execPath, [script, join(checkout, 'test/servers'), settings], {
      stdio: ['ignore', log, log, 'ipc'],
    });
    closeSync(log);
    const [endpoint] = (await Promise.race([once(child, 'message'), once(child, 'exit')])) as unknown[];
    if (typeof endpoint !== 'string') throw new Error(`miniflare did not start:\n${readFileSync(logFile, 'utf8')}`);
    return new S3Server({ endpoint, region: 'auto', bucket: buckets[0] ?? '', ...keys }, child, logFile);
  }

  /** What the server has said of its own troubles; clients that break off are among them. */
  get log(): string {
    return readFileSync(this.#logFile, 'utf8');
  }

  /** Ends the server and removes what it stored. */
  async stop(): Promise<void> {
    if (!this.#process.connected) return;
    const ended = once(this.#process, 'exit');
    this.#process.disconnect();
    await ended;
  }
}
