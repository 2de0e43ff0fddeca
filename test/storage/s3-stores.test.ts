/** The storage in a bucket: the contract behind stores and gateways that answer in every way that was seen. */
import { vi } from 'vitest';
import { swallowContinue } from '../support/network-faults.ts';
import {
  conflict,
  errorInOk,
  falsePreconditionFailed,
  gatewayError,
  internalError,
  refuse,
  slowDown,
  tooManyRequests,
  wrongDate,
} from '../support/store-faults.ts';
import { describeProfiles } from './profiles.ts';

vi.mock(import('../../src/limits.ts'), async (original) =>
  (await import('../support/short-pauses.ts')).withShortPauses(await original()),
);

describeProfiles({
  'false 412': { faults: falsePreconditionFailed, when: { rate: 0.2, kind: 'PutObject' } },
  'a storm of 503': { faults: [slowDown(), internalError], when: { rate: 0.2 } },
  'a storm of 503 and 429 with Retry-After': { faults: [slowDown(1), tooManyRequests], when: { rate: 0.2 } },
  'errors told before the body is read': { faults: refuse(503, 'SlowDown', { early: true }), when: { rate: 0.2 } },
  '200 with an error': { faults: [errorInOk(), errorInOk('SlowDown')], when: { rate: 0.2 } },
  'HTML errors': { faults: gatewayError, when: { rate: 0.2 } },
  '409 for conditional requests': { faults: conflict, when: { rate: 0.2, kind: 'PutObject' } },
  'no 100-continue': { faults: swallowContinue },
  'a wrong Date': { faults: [wrongDate(3000), wrongDate(-600_000)], when: { rate: 0.5 } },
});
