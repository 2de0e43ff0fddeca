/** The licences of what a package holds besides WAL-T: of every package that is in a bundle, and of the bindings. Node.js has its own beside it. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { bindings, check, project } from './parts.ts';

const title = `WAL-T's own licence is in LICENSE, Node.js's and those of all that is in it, zstd among them, in node/LICENSE.
This file has those of the packages that are in WAL-T's bundles and of the native bindings.
`;

/** One text for all; packages with the very same licence share it. */
export function thirdPartyLicences(): string {
  const holders = new Map<string, string[]>();
  for (const folder of packageFolders()) {
    const text = licenceOf(folder);
    const { name, version } = packageJson(folder);
    holders.set(text, [...(holders.get(text) ?? []), `${name} ${version}`]);
  }
  const rule = '-'.repeat(78);
  return [title, ...[...holders].map(([text, names]) => `${rule}\n${names.join('\n')}\n\n${text}\n`)].join('\n');
}

/** The folders of all packages from which a bundle takes anything, relative to the project, in order. */
function packageFolders(): string[] {
  const lines = check(process.execPath, [join(project, 'scripts/build.mjs'), '--list'])
    .trim()
    .split('\n');
  const bundles = lines.map((line) => JSON.parse(line) as Readonly<Record<'inputs' | 'onDemand', readonly string[]>>);
  const inputs = bundles.flatMap(({ inputs, onDemand }) => [...inputs, ...onDemand]);
  const folders = inputs.flatMap((path) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(path) ?? []);
  return [...new Set([...folders, ...bindings.map(({ name }) => `node_modules/${name}`)])].sort();
}

function licenceOf(folder: string): string {
  const files = readdirSync(join(project, folder)).filter((name) => /^(?:licen[cs]e|copying|notice)/i.test(name));
  if (files.length === 0) return `Licence: ${packageJson(folder).license} (the package has no text of it)`;
  return files
    .map((name) =>
      readFileSync(join(project, folder, name), 'utf8')
        .replaceAll('\r', '')
        .trim(),
    )
    .join('\n\n');
}

function packageJson(folder: string): Readonly<Record<'name' | 'version' | 'license', string>> {
  return JSON.parse(readFileSync(join(project, folder, 'package.json'), 'utf8'));
}
