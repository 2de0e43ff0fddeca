/** npm run bench -- <scenario> [--runs N] [--json FILE] [--endpoint URL --bucket NAME --region R]: whole processes beside their limits and peers, in one run on this machine. */
import { writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { parseArgs } from 'node:util';
import { prepareInstallation } from '../../test/support/installation.ts';
import { benchPush } from './push.ts';

const scenarios = { push: benchPush };

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: 'string', default: '7' },
    json: { type: 'string' },
    endpoint: { type: 'string' },
    bucket: { type: 'string', default: 'wal-t-bench' },
    region: { type: 'string', default: 'us-east-1' },
  },
});
const scenario = scenarios[positionals[0] as keyof typeof scenarios];
const runs = Number(values.runs);
if (scenario === undefined || !Number.isInteger(runs) || runs < 1) {
  process.stderr.write(`usage: npm run bench -- ${Object.keys(scenarios).join('|')} [--runs N] [--json FILE]\n`);
  process.exit(2);
}

const undo = prepareInstallation();
try {
  const [cpu] = cpus();
  const machine = `${cpus().length} × ${cpu?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node.js ${process.versions.node}`;
  const { text, results } = await scenario({ runs, s3: givenEndpoint() });
  process.stdout.write(`${machine}; ${runs} runs each, alternating\n\n${text}\n`);
  if (values.json !== undefined)
    writeFileSync(values.json, `${JSON.stringify({ machine, runs, results }, undefined, 2)}\n`);
} finally {
  undo();
}

/** The endpoint of the command line, with the keys of the environment. */
function givenEndpoint() {
  const { endpoint, bucket, region } = values;
  if (endpoint === undefined) return undefined;
  const { AWS_ACCESS_KEY_ID: accessKeyId = '', AWS_SECRET_ACCESS_KEY: secretAccessKey = '' } = process.env;
  return { endpoint, bucket, region, accessKeyId, secretAccessKey };
}
