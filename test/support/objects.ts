/** Objects made by hand, sound and otherwise, for tests. */
import { createHash } from 'node:crypto';
import { type Bytes, bytesOf } from '../../src/bytes.ts';
import type { ObjectIdentity } from '../../src/codec/header.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { type SealedObject, type SealOptions, sealObject } from '../../src/codec/object.ts';

export const identity: ObjectIdentity = {
  kind: 'segment',
  name: 'wal/00000001/0000000100000000/000000010000000000000002',
  systemIdentifier: '7312345678901234567',
};

export const sealOptions: SealOptions = {
  ...identity,
  pushedAt: new Date('2026-11-20T08:30:00.000Z'),
  host: 'db1',
  level: 3,
  keys: noKeys,
};

/** A header as text: the members of a sound one, changed; a member that is undefined is left out. */
export function headerText(members: Readonly<Record<string, unknown>>): string {
  return JSON.stringify({
    format: 1,
    ...identity,
    bytes: 0,
    sha256: createHash('sha256').digest('hex'),
    stored: 0,
    pushedAt: '2026-11-20T08:30:00.000Z',
    host: 'db1',
    ...members,
  });
}

/** An object of this header text and these frames, whatever they say. */
export function enveloped(header: string | Uint8Array, frames: Uint8Array): Buffer {
  const bytes = Buffer.from(header);
  const prefix = Buffer.alloc(8);
  prefix.writeUInt32LE(0x184d2a57, 0);
  prefix.writeUInt32LE(bytes.length, 4);
  return Buffer.concat([prefix, bytes, frames]);
}

/** The same with the right `stored`, which stands last, unless `members` say otherwise. */
export function envelope(members: Readonly<Record<string, unknown>>, frames: Uint8Array): Buffer {
  let stored = 0;
  for (;;) {
    const object = enveloped(headerText({ stored, ...members }), frames);
    if (object.length === stored || 'stored' in members) return object;
    stored = object.length;
  }
}

/** The whole of a sealed object. */
export async function bytesOfSealed({ body }: SealedObject): Promise<Buffer> {
  const bytes = body();
  return bytes instanceof Uint8Array ? Buffer.from(bytes) : join(bytes);
}

/** Seals content that is already there. */
export async function seal(content: Uint8Array, options: Partial<SealOptions> = {}): Promise<Buffer> {
  return bytesOfSealed(await sealObject(() => bytesOf(content), { ...sealOptions, ...options }));
}

export async function join(bytes: Bytes): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of bytes) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The same bytes in pieces that are cut at `cuts`; empty pieces, too. */
export async function* cut(content: Uint8Array, cuts: readonly number[]): AsyncGenerator<Uint8Array> {
  const ends = [...cuts.map((at) => at % (content.length + 1)), content.length].sort((a, b) => a - b);
  let start = 0;
  for (const end of ends) {
    yield content.subarray(start, end);
    start = end;
  }
}
