/** What a client really sends: a server over HTTP or TLS that keeps every request and says yes, and a CONNECT proxy that leads to it. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { type AddressInfo, connect, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { collect } from '../../src/bytes.ts';

export interface Tapped {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

export interface Tap {
  readonly port: number;
  readonly requests: readonly Tapped[];
}

/** It answers as an empty S3 would that takes everything. With `tls` it speaks TLS. */
export async function openTap(tls?: { readonly key: string; readonly cert: string }): Promise<Tap> {
  const requests: Tapped[] = [];
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const body = await collect(request, 2 ** 30);
    const { method = '', url: path = '', headers } = request;
    requests.push({ method, path, headers, body });
    response.setHeader('etag', '"tag"');
    if (path.includes('uploads'))
      response.end('<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>');
    else if (path.includes('uploadId') && method === 'POST')
      response.end('<CompleteMultipartUploadResult><ETag>"t"</ETag></CompleteMultipartUploadResult>');
    else if (path.includes('?delete')) response.end('<DeleteResult><Deleted><Key>k</Key></Deleted></DeleteResult>');
    else if (path.includes('list-type'))
      response.end('<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount></ListBucketResult>');
    else response.end();
  };
  const server = tls === undefined ? createServer(answer) : createTlsServer({ ...tls }, answer);
  return { port: await listen(server), requests };
}

/** An HTTP proxy that connects every host to the same port of this one. */
export async function openConnectProxy(
  port: number,
): Promise<{ readonly url: string; readonly hosts: readonly string[] }> {
  const hosts: string[] = [];
  const proxy = createServer((_, response) => response.writeHead(405).end());
  proxy.on('connect', ({ url = '' }: IncomingMessage, client: Socket) => {
    hosts.push(url);
    const server = connect(port, '127.0.0.1', () => client.write('HTTP/1.1 200 OK\r\n\r\n'));
    server.pipe(client).pipe(server);
    for (const socket of [client, server]) socket.on('error', () => [client, server].map((one) => one.destroy()));
  });
  return { url: `http://127.0.0.1:${await listen(proxy)}`, hosts };
}

/** A certificate of its own making for these host names. @returns its path is the authority's too. */
export function makeCertificate(folder: string, names: readonly string[]) {
  mkdirSync(folder, { recursive: true });
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  const words = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  const subject = ['-subj', '/CN=test', '-addext', `subjectAltName=${names.map((name) => `DNS:${name}`).join()}`];
  const { status, stderr } = spawnSync('openssl', [...words, ...subject, '-keyout', key, '-out', cert]);
  if (status !== 0) throw new Error(String(stderr));
  return { caFile: cert, key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') };
}

async function listen(server: Server): Promise<number> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket) => sockets.add(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return (server.address() as AddressInfo).port;
}
