/** `postmaster.pid`: what a running server left in its data directory about itself. @see PostgreSQL `src/include/utils/pidfile.h` */
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { HostError, systemErrorCode, systemErrorReason } from '../errors.ts';

export interface PostmasterPid {
  readonly pid: number;
  /** When the postmaster began to start. */
  readonly startedAt: Date;
  readonly port: number | undefined;
  /** The first of `unix_socket_directories`. */
  readonly socketDirectory: string | undefined;
  /** The first of `listen_addresses`, as an address to connect to. */
  readonly listenAddress: string | undefined;
}

/** Undefined when there is none: no server runs on this data directory. @throws HostError when it cannot be read. */
export async function readPostmasterPid(dataDirectory: string): Promise<PostmasterPid | undefined> {
  const path = join(dataDirectory, 'postmaster.pid');
  try {
    return parsePostmasterPid(await readFile(path, 'utf8'), dataDirectory);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    const isDenied = systemErrorCode(error) === 'EACCES';
    throw new HostError(`could not read "${path}": ${systemErrorReason(error)}`, {
      hint: isDenied ? 'Run it as the user that PostgreSQL runs as, or as root.' : "Look at this host's disk.",
      cause: error,
    });
  }
}

/** What tells one start of a server on this data directory from the next: its first and its third line. Undefined when none runs. */
export async function readServerStart(dataDirectory: string): Promise<string | undefined> {
  const server = await readPostmasterPid(dataDirectory);
  return server === undefined ? undefined : `${server.pid} ${server.startedAt.getTime() / 1000}`;
}

/** Lines: process id, data directory, start time in epoch seconds, port, socket directory, listen address, shared memory, status. */
export function parsePostmasterPid(text: string, dataDirectory: string): PostmasterPid | undefined {
  const [pid = '', , startTime = '', port = '', socketDirectory = '', listenAddress = ''] = text.split('\n');
  if (!/^-?[0-9]+$/.test(pid) || !/^[0-9]+$/.test(startTime)) return undefined; // it is just being written
  return {
    pid: Math.abs(Number(pid)), // negative: a single-user session
    startedAt: new Date(Number(startTime) * 1000),
    port: /^[0-9]+$/.test(port) ? Number(port) : undefined,
    socketDirectory: socketDirectory === '' ? undefined : resolve(dataDirectory, socketDirectory),
    listenAddress: connectable(listenAddress),
  };
}

function connectable(address: string): string | undefined {
  if (address === '') return undefined;
  if (address === '*' || address === '0.0.0.0') return 'localhost';
  return address === '::' ? '::1' : address;
}
