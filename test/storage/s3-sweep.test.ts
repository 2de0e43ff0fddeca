/** Uploads that were broken off are found, asked about, and taken back from a real server; only the listing is the proxy's. */
import { CreateMultipartUploadCommand, UploadPartCommand } from '@aws-sdk/client-s3';
import { describe, expect, it } from 'vitest';
import { UnsupportedError } from '../../src/errors.ts';
import { listUploads } from '../support/listed-uploads.ts';
import { sdkClient, shareS3Server } from '../support/proxied.ts';
import { openS3Storage } from '../support/s3-storage.ts';
import { refuse } from '../support/store-faults.ts';

const startProxy = shareS3Server();

async function startSweep(pageSize: number) {
  const listed = listUploads({ pageSize });
  const { proxy, key } = await startProxy(listed.fault);
  const prefix = key.replace(/\/.*/, '');
  const storage = await openS3Storage(proxy.s3, { prefix });
  const client = sdkClient(proxy);
  const bucket = proxy.s3.bucket;
  const begin = async (name: string) => {
    const { UploadId } = await client.send(new CreateMultipartUploadCommand({ Bucket: bucket, Key: name }));
    const part = { Bucket: bucket, Key: name, UploadId, PartNumber: 1, Body: Buffer.alloc(1000) };
    await client.send(new UploadPartCommand(part));
    return UploadId ?? '';
  };
  const isThere = async (name: string, UploadId: string) => {
    const part = { Bucket: bucket, Key: name, UploadId, PartNumber: 2, Body: Buffer.alloc(1000) };
    return client.send(new UploadPartCommand(part)).then(
      () => true,
      () => false,
    );
  };
  return { listed, proxy, prefix, storage, begin, isThere };
}

describe('sweep', () => {
  it('takes back what it is told is an orphan, page by page, and nothing beside its prefix', async () => {
    const { listed, prefix, storage, begin, isThere } = await startSweep(2);
    const names = ['1/part/a/0000001', '1/part/a/0000002', '1/part/b/0000001', '1/wal/c', '2/part/a/0000001'];
    const own = new Map<string, string>();
    for (const name of names) own.set(name, await begin(`${prefix}/${name}`));
    const twice = await begin(`${prefix}/1/wal/c`);
    const foreign = await begin(`${prefix}-other/1/part/a/0000001`);
    for (const one of listed.uploads)
      if (one.key.endsWith('b/0000001')) one.initiated = new Date('2026-01-01T00:00:00Z');
    const asked: (readonly [string, Date])[] = [];
    const report = await storage.sweep((key, begunAt) => {
      asked.push([key, begunAt]);
      return key.startsWith('1/') && !key.startsWith('1/part/b/');
    });
    expect(report).toEqual({ removed: 4, failed: [] });
    expect(asked.map(([key]) => key).sort()).toEqual([...names, '1/wal/c'].sort());
    expect(asked.find(([key]) => key === '1/part/b/0000001')?.[1]).toEqual(new Date('2026-01-01T00:00:00Z'));
    expect(listed.pages).toBeGreaterThan(2);
    const left: string[] = [];
    for (const [name, id] of own) if (await isThere(`${prefix}/${name}`, id)) left.push(name);
    expect(left).toEqual(['1/part/b/0000001', '2/part/a/0000001']);
    expect(await isThere(`${prefix}/1/wal/c`, twice)).toBe(false);
    expect(await isThere(`${prefix}-other/1/part/a/0000001`, foreign)).toBe(true);
  });

  it('names each upload that cannot be taken back, and goes on with the others', async () => {
    const { proxy, prefix, storage, begin, isThere } = await startSweep(1000);
    const ids = [await begin(`${prefix}/a`), await begin(`${prefix}/b`)];
    proxy.inject(refuse(403, 'AccessDenied'), { kind: 'AbortMultipartUpload', key: `${prefix}/a` });
    const { removed, failed } = await storage.sweep(() => true);
    expect(removed).toBe(1);
    expect(failed.map(({ what }) => what)).toEqual([expect.stringMatching(/(?:^|\/)a$/)]);
    expect(await isThere(`${prefix}/a`, ids[0] ?? '')).toBe(true);
    expect(await isThere(`${prefix}/b`, ids[1] ?? '')).toBe(false);
  });

  it('takes an upload that has gone meanwhile for done', async () => {
    const { proxy, prefix, storage, begin } = await startSweep(1000);
    await begin(`${prefix}/a`);
    proxy.inject(refuse(404, 'NoSuchUpload'), { kind: 'AbortMultipartUpload' });
    expect(await storage.sweep(() => true)).toMatchObject({ failed: [] });
  });

  it('names the permission that is missing', async () => {
    const { proxy, key } = await startProxy(refuse(403, 'AccessDenied'));
    const storage = await openS3Storage(proxy.s3, { prefix: key.replace(/\/.*/, '') });
    await expect(storage.sweep(() => true)).rejects.toMatchObject({
      hint: expect.stringContaining('s3:ListBucketMultipartUploads'),
    });
  });

  it('says so where the store cannot list them', async () => {
    const { proxy, key } = await startProxy();
    const storage = await openS3Storage(proxy.s3, { prefix: key.replace(/\/.*/, '') });
    await expect(storage.sweep(() => true)).rejects.toBeInstanceOf(UnsupportedError);
  });
});
