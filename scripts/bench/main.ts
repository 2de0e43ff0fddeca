/** npm run bench -- <scenario> [--runs N] [--json FILE]: whole processes beside their limits and peers, in one run on this machine. */
import { writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { parseArgs } from 'node:util';
import { prepareInstallation } from '../../test/support/installation.ts';
import { benchPush } from './push.ts';

const scenarios = { push: benchPush };

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { runs: { type: 'string', default: '7' }, json: { type: 'string' } },
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
  const { text, results } = await scenario(runs);
  process.stdout.write(`${machine}; ${runs} runs each, alternating\n\n${text}\n`);
  if (values.json !== undefined)
    writeFileSync(values.json, `${JSON.stringify({ machine, runs, results }, undefined, 2)}\n`);
} finally {
  undo();
}
