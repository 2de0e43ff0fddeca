/** The contract against a store of the caller's choice: `npm run conformance` starts it and says by CONFORMANCE which one. Not part of `npm test`. */
import { randomUUID } from 'node:crypto';
import { afterAll, describe, expect, it } from 'vitest';
import { readSettings } from '../../src/config.ts';
import { probeStorage } from '../../src/storage/probe.ts';
import { openS3 } from '../../src/storage/s3.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { describeStorage, keysOf } from './conformance.ts';

const { repository, endpoint } = JSON.parse(process.env.CONFORMANCE ?? '{}') as {
  readonly repository: string;
  readonly endpoint?: string;
};
const root = `${repository}/conformance-${randomUUID()}`;
let opened = 0;

const settings = readSettings({});

function open(url: string): Promise<Storage> {
  return openS3(url, { ...settings, repository: url, s3: { ...settings.s3, endpoint } });
}

afterAll(async () => {
  const storage = await open(root);
  const { failed } = await storage.delete(await keysOf(storage, ''));
  if (failed.length > 0) process.stderr.write(`${failed.length} objects could not be deleted below ${root}\n`);
});

describe(root, () => {
  it('is fit for an archive', async () => {
    const findings = await probeStorage(await open(`${root}/probe`));
    process.stderr.write(`findings: ${JSON.stringify(findings)}\n`);
    expect(findings.delete).toBe('allowed');
  });
});

describeStorage('this store', () => open(`${root}/${opened++}`));
