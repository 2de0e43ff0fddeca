/**
 * npm run bench -- SCENARIO [--runs N] [--json FILE] [--document]: whole processes beside their limits and peers, in one run on this machine.
 * docs/PERFORMANCE.md says what each scenario measures and which further flags it has; --document puts its output there.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { prepareInstallation } from '../../test/support/installation.ts';
import { benchAnswer } from './answer.ts';
import { benchArchive } from './archive.ts';
import { benchBackup } from './backup.ts';
import { putIntoDocument } from './document.ts';
import { benchIncrement } from './increment.ts';
import { currentLoad, describeLoad, describeMachine, describeVersions } from './machine.ts';
import { benchMemory } from './memory.ts';
import { benchPush } from './push.ts';
import { benchRecover } from './recover.ts';
import { benchRequests } from './requests.ts';

interface Given {
  readonly runs: number;
  readonly s3: ReturnType<typeof givenEndpoint>;
}

const scenarios = {
  push: benchPush,
  backup: ({ runs, s3 }: Given) =>
    benchBackup({
      runs,
      s3: s3 ?? (values.s3 ? 'test server' : undefined),
      bytes: parseSize(values.size),
      files: Number(values.files),
      workers: values.workers.split(',').map(Number),
      alone: values.alone,
      only: new RegExp(values.only),
    }),
  increment: () => benchIncrement({ bytes: parseSize(values.size), days: Number(values.days) }),
  archive: ({ runs, s3 }: Given) => benchArchive({ runs, ...waiting(s3, 0) }),
  recover: ({ runs, s3 }: Given) => benchRecover({ runs, ...waiting(s3, 20) }),
  answer: ({ s3 }: Given) => benchAnswer(waiting(s3, 0)),
  memory: ({ s3 }: Given) => benchMemory(waiting(s3, 0)),
  requests: () => benchRequests({ bytes: parseSize(values.size) }),
};

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: 'string', default: '7' },
    json: { type: 'string' },
    document: { type: 'boolean', default: false },
    size: { type: 'string', default: '1GB' },
    files: { type: 'string', default: '0' },
    days: { type: 'string', default: '30' },
    workers: { type: 'string', default: '2' },
    alone: { type: 'boolean', default: false },
    s3: { type: 'boolean', default: false },
    segments: { type: 'string', default: '128' },
    latency: { type: 'string' },
    only: { type: 'string', default: '' },
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
  const [name = ''] = positionals;
  const before = describeLoad();
  const { text, ...found } = await scenario({ runs, s3: givenEndpoint() });
  const isRepeated = !['answer', 'memory', 'requests', 'increment'].includes(name);
  const head = [describeMachine(), `${before}; ${currentLoad()} when it ended`, describeVersions()];
  if (isRepeated) head.push(`${runs} ${runs === 1 ? 'run' : 'runs'} each, alternating`);
  const printed = [...head, '', ...text.split('\n')].map((line) => line.trimEnd()).join('\n');
  process.stdout.write(`${printed}\n`);
  if (values.json !== undefined)
    writeFileSync(values.json, `${JSON.stringify({ machine: head, runs, ...found }, undefined, 2)}\n`);
  if (values.document) putIntoDocument(name, printed);
} finally {
  undo();
}

/** `500MB`, `1GB`: powers of ten. */
function parseSize(text: string): number {
  const [, digits, unit] = /^(\d+)(MB|GB)$/.exec(text) ?? [];
  if (digits === undefined) throw new Error(`"${text}" is no size such as 500MB or 10GB`);
  return Number(digits) * (unit === 'GB' ? 1e9 : 1e6);
}

/** What the scenarios of WAL have in common. Time is added to each request of the test server alone. */
function waiting(given: Given['s3'], standardLatencyMs: number) {
  const s3 = given ?? (values.s3 ? ('test server' as const) : undefined);
  return {
    s3,
    segments: Number(values.segments),
    only: new RegExp(values.only),
    latencyMs: Number(values.latency ?? (s3 === 'test server' ? standardLatencyMs : 0)),
  };
}

/** The endpoint of the command line, with the keys of the environment. */
function givenEndpoint() {
  const { endpoint, bucket, region } = values;
  if (endpoint === undefined) return undefined;
  const { AWS_ACCESS_KEY_ID: accessKeyId = '', AWS_SECRET_ACCESS_KEY: secretAccessKey = '' } = process.env;
  return { endpoint, bucket, region, accessKeyId, secretAccessKey };
}
