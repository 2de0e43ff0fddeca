/** A backup's list of files as a stream of lines, ended by a seal that counts and hashes them. Both directions. */
import { createHash } from 'node:crypto';
import { ByteReader, type Bytes } from '../bytes.ts';
import { limits } from '../limits.ts';
import { type FilesLine, parseLine, unsound } from './files-line.ts';
import { Order } from './files-order.ts';

/** How many lines there are of each kind. */
export interface FilesCount {
  readonly parts: number;
  readonly files: number;
  readonly folders: number;
  readonly tablespaces: number;
}

/** Ends a list with a line that counts and hashes all before it. */
export async function* sealLines(lines: Bytes, count: () => FilesCount): Bytes {
  const hash = createHash('sha256');
  for await (const chunk of lines) {
    hash.update(chunk);
    yield chunk;
  }
  yield Buffer.from(`${JSON.stringify({ type: 'seal', ...count(), sha256: hash.digest('hex') })}\n`);
}

/**
 * The lines of a list, in order. That the list is whole is known when it ends.
 * @throws CorruptError when a line is none, is out of order, names an impossible path or part, or the seal does not fit.
 */
export async function* parseLines(list: Bytes): AsyncGenerator<FilesLine> {
  const hash = createHash('sha256');
  const order = new Order();
  const reader = new ByteReader(list);
  try {
    for (;;) {
      const text = await readLine(reader);
      const value = parseJson(text);
      if (value.type === 'seal') {
        order.expectSeal(value, hash.digest('hex'));
        if (!(await reader.ended())) throw unsound('lines follow after the seal');
        return;
      }
      hash.update(text).update('\n');
      const line = parseLine(value);
      order.expect(line);
      yield line;
    }
  } finally {
    await reader.close();
  }
}

async function readLine(reader: ByteReader): Promise<string> {
  const text = await reader.readUntil(0x0a, limits.lineBytes);
  if (text === undefined) throw unsound('it ends without its seal');
  return text.toString('utf8');
}

function parseJson(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch {
    // said below
  }
  throw unsound('a line is not a JSON object');
}
