/** The contenders of the backlog that are neither WAL-T nor pgBackRest: what sends over S3, and WAL-G, where they are on PATH. */
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildSync } from 'esbuild';
import type { S3Endpoint } from '../../test/support/s3-server.ts';
import { type Archiver, makeEmpty, type Scene } from './archiver.ts';
import type { Bucket } from './bucket.ts';

/** A process for each segment, and seconds for each: enough of them to know the rate. */
const barmanSegments = 12;

/** Segments on their way at the same time: as many as one wal-push has. */
const concurrency = 4;

/** What no archiver with the same client over as many connections can be faster than: the segments were compressed before. */
export function sendingAlone({ folder, compressed }: Scene, { slowed }: Bucket): Archiver {
  const outfile = join(folder, 'send.mjs'); // in one file, as WAL-T's commands are
  const entry = fileURLToPath(new URL('send.ts', import.meta.url));
  const banner = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);";
  buildSync({
    entryPoints: [entry],
    outfile,
    bundle: true,
    minify: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    banner: { js: banner },
  });
  const sending = { s3: slowed, prefix: `sent-${process.pid}`, files: compressed, concurrency };
  return {
    name: `sending alone, ${concurrency} at a time`,
    command: `AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED=true node ${outfile} '${JSON.stringify(sending)}'`,
    isWhole: true,
    renew: () => undefined,
  };
}

/** Its compressions are gzip, bzip2, and snappy where Python has it; not zstd. It overwrites what is there: nothing to renew. */
export function barman({ segments }: Scene, { slowed }: Bucket): Archiver[] {
  if (spawnSync('barman-cloud-wal-archive', ['--version']).status !== 0) return [];
  const hasSnappy = spawnSync('python3', ['-c', 'import snappy']).status === 0;
  const words = ['--endpoint-url', slowed.endpoint, `s3://${slowed.bucket}/barman-${process.pid}`, 'bench', '%p'];
  return ['', '-z', ...(hasSnappy ? ['--snappy'] : [])].map((flag) => ({
    name: `barman-cloud-wal-archive ${flag}`.trim(),
    command: [...keysOf(slowed), 'barman-cloud-wal-archive', flag, ...words].join(' '),
    count: Math.min(barmanSegments, segments.length),
    renew: () => undefined,
  }));
}

export function walG({ folder, server }: Scene, bucket?: Bucket): Archiver[] {
  if (spawnSync('wal-g', ['--version']).status !== 0) return [];
  const store = join(folder, 'wal-g');
  const s3 = bucket?.slowed;
  const where =
    s3 === undefined
      ? [`WALG_FILE_PREFIX=${store}`]
      : [
          ...keysOf(s3),
          `WALG_S3_PREFIX=s3://${s3.bucket}/wal-g-${process.pid}`,
          `AWS_ENDPOINT=${s3.endpoint}`,
          'AWS_S3_FORCE_PATH_STYLE=true',
        ];
  const settings = [...where, 'WALG_COMPRESSION_METHOD=zstd', `PGDATA=${server.dataDirectory}`];
  const renew = () => {
    makeEmpty(store);
    rmSync(join(server.dataDirectory, 'pg_wal/walg_data'), { recursive: true, force: true });
  };
  return [
    {
      name: `wal-g${s3 === undefined ? '' : ', S3'}`,
      command: [...settings, 'wal-g', 'wal-push', '%p'].join(' '),
      renew,
    },
  ];
}

function keysOf({ accessKeyId, secretAccessKey, region }: S3Endpoint): string[] {
  return [
    `AWS_ACCESS_KEY_ID=${accessKeyId}`,
    `AWS_SECRET_ACCESS_KEY='${secretAccessKey}'`,
    `AWS_DEFAULT_REGION=${region}`,
    `AWS_REGION=${region}`,
  ];
}
