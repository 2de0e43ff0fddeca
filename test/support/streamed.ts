/** Streamed objects for tests, whole in memory. */
import { type Bytes, bytesOf } from '../../src/bytes.ts';
import type { ObjectIdentity } from '../../src/codec/header.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import { openStreamed, type StreamedCommitment, sealStreamed } from '../../src/codec/streamed.ts';
import { join } from './objects.ts';
import { testSystemIdentifier } from './segment.ts';

export const testBackupId = '20261120T083000Z-000000010000000100000023-full-0badcafe';

export const partIdentity: ObjectIdentity = {
  kind: 'part',
  name: `part/${testBackupId}/0000001`,
  systemIdentifier: testSystemIdentifier,
};

export interface StreamedObject {
  readonly object: Buffer;
  readonly commitment: StreamedCommitment;
}

export async function sealWhole(raw: Bytes, keys: Keys = noKeys, level = 3): Promise<StreamedObject> {
  const { body, commitment } = sealStreamed(raw, { ...partIdentity, level, keys });
  return { object: await join(body), commitment: commitment() };
}

/** Its content, of however many bytes the storage says that it has. */
export function openWhole(
  { object, commitment }: StreamedObject,
  {
    keys = noKeys,
    body = bytesOf(object),
    sizeBytes = object.length,
    identity = partIdentity,
  }: Partial<OpenWhole> = {},
): Promise<Buffer> {
  return join(openStreamed(body, sizeBytes, { commitment, identity, keys }));
}

interface OpenWhole {
  readonly keys: Keys;
  readonly body: Bytes;
  readonly sizeBytes: number;
  readonly identity: ObjectIdentity;
}
