/** `/health`, `/status` and `/metrics` over HTTP. Answers from memory: a scrape never reaches the storage or the server. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { HostError, systemErrorReason } from '../../errors.ts';

export interface Answer {
  readonly code: number;
  readonly contentType: string;
  readonly text: string;
}

export type Endpoints = Readonly<Record<string, () => Answer | Promise<Answer>>>;

export interface OpenEndpoints {
  readonly port: number;
  close(): Promise<void>;
}

export function jsonAnswer(code: number, value: unknown): Answer {
  return { code, contentType: 'application/json', text: `${JSON.stringify(value)}\n` };
}

/** Without a host on all addresses. @throws HostError when nothing can be served there. */
export async function openEndpoints(
  endpoints: Endpoints,
  { host, port }: { readonly host: string | undefined; readonly port: number },
): Promise<OpenEndpoints> {
  const server = createServer({ requestTimeout: 10_000, headersTimeout: 10_000 }, (request, response) => {
    answer(endpoints, request, response).catch(() => response.destroy());
  });
  server.maxConnections = 64; // what is asked for is small, and memory is little
  await listening(server, { host, port });
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : port,
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

function listening(server: Server, options: { readonly host: string | undefined; readonly port: number }) {
  return new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      const place = `${options.host ?? ''}:${options.port}`;
      reject(
        new HostError(`could not listen on "${place}": ${systemErrorReason(error)}`, {
          hint: 'Set WALT_SIDECAR_LISTEN to an address of this host and a port that is free.',
          cause: error,
        }),
      );
    });
    server.listen(options, resolve);
  });
}

async function answer(endpoints: Endpoints, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const path = (request.url ?? '').replace(/\?.*$/s, '');
  const endpoint = Object.hasOwn(endpoints, path) ? endpoints[path] : undefined;
  const isRead = request.method === 'GET' || request.method === 'HEAD';
  const { code, contentType, text } =
    endpoint === undefined ? notFound(endpoints) : isRead ? await endpoint() : notAllowed();
  response.writeHead(code, {
    'content-type': contentType,
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
  });
  response.end(request.method === 'HEAD' ? undefined : text);
}

function notFound(endpoints: Endpoints): Answer {
  return { code: 404, contentType: 'text/plain', text: `${Object.keys(endpoints).join('\n')}\n` };
}

function notAllowed(): Answer {
  return { code: 405, contentType: 'text/plain', text: 'GET\n' };
}
