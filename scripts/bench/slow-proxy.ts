/** A process of its own, since the bench waits for its contenders in step: adds time to each request, and counts them. */
import { FaultProxy } from '../../test/support/fault-proxy.ts';
import { delayRequest } from '../../test/support/network-faults.ts';
import type { S3Endpoint } from '../../test/support/s3-server.ts';

const { s3, latencyMs } = JSON.parse(process.argv[2] ?? '') as { readonly s3: S3Endpoint; readonly latencyMs: number };
const proxy = await FaultProxy.start(s3);
proxy.inject(delayRequest(latencyMs));
process.on('disconnect', () => process.exit());
process.on('message', () => {
  const counted: Record<string, number> = {};
  for (const { kind } of proxy.log) counted[kind] = (counted[kind] ?? 0) + 1;
  proxy.forget();
  process.send?.(counted);
});
process.send?.(proxy.s3);
