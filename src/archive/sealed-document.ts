/** Small JSON documents in an envelope: manifests, leases, pins, plans. Written once; read with every check that an object has. */
import { bytesOf, collect } from '../bytes.ts';
import type { SealedKind } from '../codec/header.ts';
import { manifestKeys } from '../codec/keys.ts';
import { openObject, sealObject } from '../codec/object.ts';
import { CorruptError, ObjectExists } from '../errors.ts';
import { limits } from '../limits.ts';
import type { RequestOptions } from '../storage/storage.ts';
import { type Archive, about } from './archive.ts';
import { objectKey } from './keys.ts';

export interface DocumentName {
  readonly kind: SealedKind;
  readonly name: string;
}

export interface DocumentWriter extends RequestOptions {
  readonly host: string;
}

/**
 * Stores a document under a name that nobody else has: it holds a random part.
 * That something is there already can then only be an own request whose answer was lost.
 */
export async function putDocument(
  archive: Archive,
  { kind, name }: DocumentName,
  document: object,
  { host, signal }: DocumentWriter,
): Promise<void> {
  const { storage, systemIdentifier } = archive;
  const sealed = await sealObject(() => bytesOf(Buffer.from(`${JSON.stringify(document)}\n`)), {
    kind,
    name,
    systemIdentifier,
    host,
    keys: manifestKeys(archive.keys),
    level: 3,
    pushedAt: new Date(),
  });
  const key = objectKey(systemIdentifier, name);
  try {
    await storage.put(key, await collect(asBytes(sealed.body()), limits.heldBytes), { signal });
  } catch (error) {
    if (!(error instanceof ObjectExists)) throw error;
  }
}

async function* asBytes(body: Uint8Array | AsyncIterable<Uint8Array>) {
  if (body instanceof Uint8Array) yield body;
  else yield* body;
}

/** @throws ObjectNotFound when it is not there, CorruptError when it is not a document as it was stored. */
export async function getDocument(
  archive: Archive,
  { kind, name }: DocumentName,
  options: RequestOptions = {},
): Promise<Record<string, unknown>> {
  const { storage, systemIdentifier, keys } = archive;
  const key = objectKey(systemIdentifier, name);
  const { sizeBytes, body } = await storage.get(key, options);
  try {
    const { content } = await openObject(body, sizeBytes, { kind, name, systemIdentifier }, keys);
    const text = (await collect(content, limits.planBytes)).toString('utf8');
    return parse(text);
  } catch (error) {
    throw about(error, archive, key);
  }
}

function parse(text: string): Record<string, unknown> {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (cause) {
    throw new CorruptError('it is not JSON', { cause });
  }
  if (typeof document !== 'object' || document === null) throw new CorruptError('it is not a JSON object');
  return document as Record<string, unknown>;
}
