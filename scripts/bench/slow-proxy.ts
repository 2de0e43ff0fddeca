/**
 * A process of its own, since the bench waits for its contenders in step: adds time to each request, and counts them. Bytes go through as
 * they are, so that it takes as little as may be of the processors that the contenders work on. What a client sends first, or behind an
 * answer, is a request: none of them sends one before the last is answered. A client that waits to be asked for its body is asked, since
 * the test server never does.
 */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { pipeline, Transform } from 'node:stream';
import type { S3Endpoint } from '../../test/support/s3-server.ts';

const { s3, latencyMs } = JSON.parse(process.argv[2] ?? '') as { readonly s3: S3Endpoint; readonly latencyMs: number };
const { hostname: host, port, pathname } = new URL(s3.endpoint);
let requests = 0;

const waits = /\r\nexpect: 100-continue(?=\r\n)/i;

/** The request as it goes on; HTTP's heads are in latin1, as is any byte. */
function withoutWaiting(chunk: Buffer, client: Socket): Buffer {
  const text = chunk.toString('latin1');
  const head = text.slice(0, text.indexOf('\r\n\r\n'));
  if (!waits.test(head)) return chunk;
  client.write('HTTP/1.1 100 Continue\r\n\r\n');
  return Buffer.from(head.replace(waits, '') + text.slice(head.length), 'latin1');
}

const server = createServer({ noDelay: true }, (client: Socket) => {
  const storage = connect({ host, port: Number(port), noDelay: true });
  let isAnswered = true;
  storage.on('data', () => {
    isAnswered = true;
  });
  const delayed = new Transform({
    transform(chunk, _encoding, pass) {
      if (!isAnswered) return pass(null, chunk);
      isAnswered = false;
      requests += 1;
      setTimeout(() => pass(null, withoutWaiting(chunk, client)), latencyMs);
    },
  });
  pipeline(client, delayed, storage, () => undefined); // which side leaves, and when, is the contenders' business
  pipeline(storage, client, () => undefined);
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');
process.on('disconnect', () => process.exit());
process.on('message', () => {
  process.send?.(requests);
  requests = 0;
});
const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}${pathname.replace(/\/$/, '')}`;
process.send?.({ ...s3, endpoint });
