/** Miniflare in a process of its own, for s3-server.ts: it ends with its parent, however that dies, and takes workerd and the stored objects along. */
import { rmSync } from 'node:fs';
import { createRequire } from 'node:module';

const [serversFolder, settings] = process.argv.slice(2);
const { folder, buckets, accessKeyId, secretAccessKey } = JSON.parse(settings);
const { Miniflare } = createRequire(`${serversFolder}/package.json`)('miniflare');

const s3Credentials = { accessKeyId, secretAccessKey };
const miniflare = new Miniflare({
  modules: true,
  script: 'export default { fetch: () => new Response(null, { status: 404 }) };',
  host: '127.0.0.1',
  port: 0,
  cf: false,
  logRequests: false,
  defaultPersistRoot: folder,
  r2Buckets: Object.fromEntries(buckets.map((id) => [id, { id, s3Credentials }])),
});

const end = async () => {
  await miniflare.dispose();
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  process.exit();
};
process.on('disconnect', end);
process.on('SIGTERM', end);
process.send(new URL('/cdn-cgi/local/r2/s3', await miniflare.ready).href);
