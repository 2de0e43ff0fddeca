/**
 * ListMultipartUploads for a server that has none: the proxy remembers which uploads were really begun and not ended, and answers as AWS
 * documents it, in pages, by key and then by time. Everything else goes to the server.
 * @see https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html
 */
import { bytesOf } from '../../src/bytes.ts';
import { type Fault, fault, type S3Answer, wholeOf, withText } from './s3-exchange.ts';

interface Upload {
  readonly key: string;
  readonly id: string;
  initiated: Date;
}

export interface ListedUploads {
  /** To be injected without conditions. */
  readonly fault: Fault;
  /** Those that are under way. */
  readonly uploads: readonly Upload[];
  /** How many pages were asked for. */
  readonly pages: number;
}

export function listUploads({ pageSize = 1000 } = {}): ListedUploads {
  const uploads: Upload[] = [];
  const listed = { uploads, pages: 0 };
  const end = (id: string | null) => {
    const index = uploads.findIndex((one) => one.id === id);
    if (index >= 0) uploads.splice(index, 1);
  };
  const ledger = fault('uploads listed', async (request, next) => {
    const query = new URL(request.path, 'http://proxy').searchParams;
    if (request.kind === 'ListMultipartUploads') {
      await wholeOf(request);
      listed.pages += 1;
      return page(request.bucket, uploads, { query, pageSize });
    }
    const answer = await next(request);
    if (answer.status >= 300) return answer;
    if (request.kind === 'AbortMultipartUpload' || request.kind === 'CompleteMultipartUpload')
      end(query.get('uploadId'));
    if (request.kind !== 'CreateMultipartUpload') return answer;
    const text = `${await wholeOf(answer)}`;
    const id = /<UploadId>(.*?)<\/UploadId>/.exec(text)?.[1] ?? '';
    uploads.push({ key: request.key, id, initiated: new Date() });
    return withText(answer, text);
  });
  return Object.assign(listed, { fault: ledger });
}

function page(
  bucket: string,
  uploads: readonly Upload[],
  { query, pageSize }: { readonly query: URLSearchParams; readonly pageSize: number },
): S3Answer {
  const [prefix, keyMarker, idMarker] = ['prefix', 'key-marker', 'upload-id-marker'].map(
    (name) => query.get(name) ?? '',
  );
  const ordered = [...uploads].sort((a, b) => (a.key === b.key ? (a.id < b.id ? -1 : 1) : a.key < b.key ? -1 : 1));
  const isAfter = ({ key, id }: Upload) =>
    key > (keyMarker ?? '') || (key === keyMarker && idMarker !== '' && id > (idMarker ?? ''));
  const found = ordered.filter((one) => one.key.startsWith(prefix ?? '') && (keyMarker === '' || isAfter(one)));
  const shown = found.slice(0, pageSize);
  const last = shown.at(-1);
  const isTruncated = found.length > shown.length;
  const next = isTruncated
    ? `<NextKeyMarker>${last?.key}</NextKeyMarker><NextUploadIdMarker>${last?.id}</NextUploadIdMarker>`
    : '';
  const entries = shown.map(
    ({ key, id, initiated }) =>
      `<Upload><Key>${key}</Key><UploadId>${id}</UploadId><Initiated>${initiated.toISOString()}</Initiated><StorageClass>STANDARD</StorageClass></Upload>`,
  );
  const text = `<?xml version="1.0" encoding="UTF-8"?>\n<ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>${bucket}</Bucket><Prefix>${prefix}</Prefix><MaxUploads>${pageSize}</MaxUploads><IsTruncated>${isTruncated}</IsTruncated>${next}${entries.join('')}</ListMultipartUploadsResult>`;
  const empty = { status: 200, headers: { 'content-type': 'application/xml' }, body: bytesOf() };
  return withText(empty, text);
}
