/** The examples for Prometheus and Grafana: every metric and check in them is one that there is, and every alert fires when it should. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { checks } from '../../src/commands/check.ts';
import { temporaryFolder } from '../support/folders.ts';
import { checkout } from '../support/installation.ts';
import { hasTool } from '../support/tools.ts';

const read = (path: string) => readFileSync(join(checkout, path), 'utf8');
const rules = read('examples/prometheus-rules.yaml');
const dashboard = JSON.parse(read('examples/grafana-dashboard.json')) as Dashboard;

interface Dashboard {
  readonly templating: { readonly list: readonly { name: string; query: string | { query: string } }[] };
  readonly panels: readonly Panel[];
}

interface Panel {
  readonly id: number;
  readonly title: string;
  readonly type: string;
  readonly datasource: { readonly uid: string };
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets: readonly { refId: string; expr: string; datasource: { uid: string } }[];
}

const namesIn = (text: string) => [...new Set(text.match(/\bwalt_[a-z_]*[a-z]\b/g))].sort();

/** As the sidecar's source has them. */
const metrics = namesIn(read('src/commands/sidecar/metrics.ts'));
const expressions = dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));

function promtool(...words: string[]): void {
  const { status, stdout, stderr } = spawnSync('promtool', words, { cwd: checkout, encoding: 'utf8' });
  expect(status, `${stdout}${stderr}`).toBe(0);
}

it('names metrics that the sidecar has, and its document names all of them', () => {
  expect(metrics.length).toBeGreaterThan(20);
  const used = [
    ...namesIn(rules),
    ...namesIn(JSON.stringify(dashboard)),
    ...namesIn(read('test/examples/prometheus-rules.yaml')),
  ];
  expect(metrics).toEqual(expect.arrayContaining(used));
  const listed = [...read('docs/SIDECAR.md').matchAll(/^\| `(walt_[a-z_]+)`/gm)].map(([, name]) => name);
  expect(listed.sort()).toEqual(metrics);
});

it('names checks that there are', () => {
  const named = [...rules.matchAll(/check!?[=~]+"([^"]*)"/g)].flatMap(([, names = '']) => names.split('|'));
  expect(named.length).toBeGreaterThan(2);
  expect(checks.map(({ name }) => name)).toEqual(expect.arrayContaining(named));
});

describe('the alerts', () => {
  it('tell what to do', () => {
    const { groups } = parse(rules) as {
      groups: { rules: { alert: string; annotations: object; labels: object }[] }[];
    };
    for (const { alert, annotations, labels } of groups.flatMap((group) => group.rules)) {
      expect(annotations, alert).toEqual({ summary: expect.any(String), description: expect.any(String) });
      expect(labels, alert).toEqual({ severity: expect.stringMatching(/^(critical|warning)$/) });
    }
  });

  it.skipIf(!hasTool('promtool'))(
    'are rules that Prometheus takes, fire when they should, and are silent when all is well',
    () => {
      promtool('check', 'rules', 'examples/prometheus-rules.yaml');
      promtool('test', 'rules', 'test/examples/prometheus-rules.yaml');
    },
  );
});

/** Grafana's own schema is no package that could be asked: what a dashboard needs is looked at here. */
describe('the dashboard', () => {
  it('has panels beside each other, each of its own number', () => {
    const ids = dashboard.panels.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    const taken = new Set<string>();
    for (const { title, gridPos } of dashboard.panels) {
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24);
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x += 1) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y += 1) {
          expect(taken, `${title} lies over another`).not.toContain(`${x} ${y}`);
          taken.add(`${x} ${y}`);
        }
      }
    }
  });

  it('asks the data source that is chosen, with variables that it declares', () => {
    const variables = dashboard.templating.list.map(({ name }) => name);
    const sources = dashboard.panels.flatMap(({ datasource, targets }) => [
      datasource,
      ...targets.map((one) => one.datasource),
    ]);
    for (const { uid } of sources) expect(uid).toMatch(/^\$\{source\}$/);
    const used = [...JSON.stringify(dashboard).matchAll(/\$\{?([a-z]+)/g)].map(([, name]) => name);
    expect(variables).toEqual(expect.arrayContaining(used));
  });

  it.skipIf(!hasTool('promtool'))('asks what Prometheus understands', () => {
    const file = join(temporaryFolder(), 'rules.yaml');
    const asRules = [...new Set(expressions)].map((expr, n) => ({ record: `walt:panel${n}`, expr }));
    writeFileSync(file, JSON.stringify({ groups: [{ name: 'panels', rules: asRules }] }));
    promtool('check', 'rules', file);
  });
});
