import { defineConfig } from 'vitest/config';
import { flakeReporter } from './test/support/flake-reporter.ts';

const inCi = process.env.CI === 'true';
const reporters = ['default', flakeReporter];

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    maxWorkers: 3,
    // on a machine that others use, too: what passes only then is named at the end, with its first error
    retry: inCi ? 1 : 0,
    reporters: inCi ? [...reporters, ['json', { outputFile: '.vitest-report.json' }]] : reporters,
  },
});
