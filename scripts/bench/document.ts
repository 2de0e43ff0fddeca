/** The tables of docs/PERFORMANCE.md are what the bench printed: each in a block that bears the scenario's name. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from '../../test/support/installation.ts';

/** Puts a scenario's output in place of the one that is there. @throws when the document has no place for it. */
export function putIntoDocument(scenario: string, text: string): void {
  const path = join(checkout, 'docs/PERFORMANCE.md');
  const document = readFileSync(path, 'utf8');
  const place = new RegExp(`(<!-- bench ${scenario} -->\n\`\`\`text\n)[^]*?(\`\`\`\n)`);
  if (!place.test(document)) throw new Error(`${path} has no block "<!-- bench ${scenario} -->"`);
  writeFileSync(
    path,
    document.replace(place, (_, begin: string, end: string) => `${begin}${text}\n${end}`),
  );
}
