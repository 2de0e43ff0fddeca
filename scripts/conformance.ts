/** Runs the contract of every storage against a store of your choice: npm run conformance -- --endpoint URL --bucket NAME [--prefix P] [--region R] */
import process from 'node:process';
import { parseArgs } from 'node:util';
import { startVitest } from 'vitest/node';

const text = { type: 'string' } as const;
const { values } = parseArgs({ options: { endpoint: text, bucket: text, prefix: text, region: text } });
const { endpoint, bucket, prefix = 'wal-t', region } = values;
if (bucket === undefined) {
  process.stderr.write(
    'usage: npm run conformance -- --bucket NAME [--endpoint URL] [--prefix P] [--region R]\n' +
      "Without --endpoint it is AWS itself. Keys come from AWS's own variables, profiles and roles.\n",
  );
  process.exit(2);
}
process.env.CONFORMANCE = JSON.stringify({ repository: `s3://${bucket}/${prefix}`, endpoint });
process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
if (endpoint !== undefined) process.env.AWS_EC2_METADATA_DISABLED ??= 'true';
if (region !== undefined) process.env.AWS_REGION = region;

const vitest = await startVitest('test', [], {
  include: ['test/storage/any.conformance.ts'],
  globalSetup: [],
  watch: false,
  testTimeout: 600_000, // a store far away
  hookTimeout: 600_000,
});
const tests = vitest.state.getTestModules().flatMap((module) => [...module.children.allTests()]);
const count = (state: string) => tests.filter((test) => test.result().state === state).length;
await vitest.close();
const [passed, failed] = [count('passed'), tests.length - count('passed')];
process.stdout.write(`conformance of ${endpoint ?? 'AWS'}, bucket ${bucket}: ${passed} passed, ${failed} failed\n`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
