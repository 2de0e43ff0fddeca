/** Names the tests that passed only when they were tried again: they are not hidden, and each is a defect of its own. */
import type { Reporter, TestModule } from 'vitest/node';

export const flakeReporter: Reporter = {
  onTestRunEnd(modules: readonly TestModule[]): void {
    for (const file of modules) {
      for (const test of file.children.allTests()) {
        if (test.diagnostic()?.flaky !== true) continue;
        const [error] = test.result().errors ?? [];
        console.log(`passed at the second try only: ${file.relativeModuleId} > ${test.fullName}`);
        if (error !== undefined) console.log(error.stack ?? error.message);
      }
    }
  },
};
