/** Miniflare is as s3-server.ts says it is: strict where the tests need it to be, and lacking what is named there. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sendS3, type WireRequest } from './s3-client.ts';
import { S3Server } from './s3-server.ts';

let server: S3Server;
beforeAll(async () => {
  server = await S3Server.start({ buckets: ['first', 'second'] });
});
afterAll(() => server.stop());

const send = (method: string, request: WireRequest = {}) => sendS3(server.s3, method, request);
const text = (content: string) => Buffer.from(content);

describe('an S3 server to test with', () => {
  it('refuses what is not signed by its keys, and what is not as it was signed', async () => {
    const put = { key: 'refused', body: text('content') };
    const cases: [status: number, code: string, answer: ReturnType<typeof send>][] = [
      [403, 'SignatureDoesNotMatch', sendS3({ ...server.s3, secretAccessKey: 'other' }, 'PUT', put)],
      [401, 'Unauthorized', sendS3({ ...server.s3, accessKeyId: 'OTHER' }, 'PUT', put)],
      [404, 'NoSuchBucket', sendS3({ ...server.s3, bucket: 'third' }, 'PUT', put)],
      [400, 'BadDigest', send('PUT', { ...put, headers: { 'content-md5': 'AAAAAAAAAAAAAAAAAAAAAA==' } })],
      [403, 'RequestTimeTooSkewed', send('PUT', { ...put, now: new Date(Date.now() - 3_600_000) })],
      [404, 'NoSuchKey', send('GET', { key: 'refused' })],
    ];
    for (const [status, code, answer] of cases) {
      const { status: found, body } = await answer;
      expect({ code, status: found, body: `${body}` }).toMatchObject({ status, body: expect.stringContaining(code) });
    }
  });

  it('keeps its buckets apart', async () => {
    expect((await send('PUT', { key: 'a', body: text('a') })).status).toBe(200);
    expect((await sendS3({ ...server.s3, bucket: 'second' }, 'GET', { key: 'a' })).status).toBe(404);
  });

  it('lets one of many conditional writers win', async () => {
    const bodies = Array.from({ length: 16 }, (_, n) => text(`writer ${n}`));
    const headers = { 'if-none-match': '*' };
    const answers = await Promise.all(bodies.map((body) => send('PUT', { key: 'race', body, headers })));
    const won = bodies.filter((_, n) => answers[n]?.status === 200);
    expect(won).toHaveLength(1);
    expect(answers.filter(({ status }) => status === 412)).toHaveLength(15);
    expect((await send('GET', { key: 'race' })).body).toEqual(won[0]);
  });

  it('answers 416 where a range begins at the end or behind it, an empty object included', async () => {
    await send('PUT', { key: 'ten', body: text('0123456789') });
    await send('PUT', { key: 'empty' });
    const cases: [key: string, range: string, status: number, body: string][] = [
      ['ten', 'bytes=8-100', 206, '89'],
      ['ten', 'bytes=10-10', 416, 'InvalidRange'],
      ['empty', 'bytes=0-0', 416, 'InvalidRange'],
    ];
    for (const [key, range, status, body] of cases) {
      const answer = await send('GET', { key, headers: { range } });
      expect({ key, range, status: answer.status, body: `${answer.body}` }).toMatchObject({
        status,
        body: expect.stringContaining(body),
      });
    }
  });

  it('lacks what is named', async () => {
    const created = `${(await send('POST', { key: 'parts', query: { uploads: '' } })).body}`;
    const uploadId = /<UploadId>(.*)<\/UploadId>/.exec(created)?.[1] ?? '';
    const part = await send('PUT', { key: 'parts', query: { partNumber: '1', uploadId }, body: text('new') });
    const complete = `<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>${part.headers.etag}</ETag></Part></CompleteMultipartUpload>`;
    const chunked = { 'content-encoding': 'aws-chunked', 'x-amz-decoded-content-length': '3' };
    const requests: [status: number, method: string, request: WireRequest][] = [
      [501, 'GET', { query: { uploads: '' } }],
      [501, 'GET', { key: 'parts', query: { uploadId } }],
      [501, 'PUT', { key: 'class', headers: { 'x-amz-storage-class': 'STANDARD_IA' } }],
      [501, 'PUT', { key: 'kms', headers: { 'x-amz-server-side-encryption': 'aws:kms' } }],
      [400, 'PUT', { key: 'session', headers: { 'x-amz-security-token': 'token' } }],
      [501, 'PUT', {}],
      [200, 'PUT', { key: 'parts', body: text('old') }],
      [200, 'POST', { key: 'parts', query: { uploadId }, headers: { 'if-none-match': '*' }, body: text(complete) }],
      [200, 'PUT', { key: 'sum', headers: { 'x-amz-checksum-crc32': 'AAAAAA==' }, body: text('sum') }],
      [200, 'PUT', { key: 'chunked', headers: chunked, body: text('3\r\nabc\r\n0\r\n\r\n') }],
    ];
    for (const [status, method, request] of requests) {
      const { status: found } = await send(method, request);
      expect({ method, request, status: found }).toEqual({ method, request, status });
    }
    expect(`${(await send('GET', { key: 'parts' })).body}`).toBe('new');
    expect(`${(await send('GET', { key: 'chunked' })).body}`).toContain('\r\nabc');
  });
});
