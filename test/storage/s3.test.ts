/** The storage in a bucket: the contract against a real S3 server that we did not write, and behind a network that fails in every way. */
import { vi } from 'vitest';
import {
  delayAnswer,
  delayRequest,
  loseAnswer,
  misstateLength,
  reset,
  resetDownload,
  resetUpload,
  shorten,
  stall,
  stallDownload,
  stallUpload,
  trickleDownload,
  trickleUpload,
  truncate,
} from '../support/network-faults.ts';
import type { Kind } from '../support/s3-exchange.ts';
import { describeProfiles } from './profiles.ts';

vi.mock(import('../../src/limits.ts'), async (original) =>
  (await import('../support/short-pauses.ts')).withShortPauses(await original()),
);

const objects: readonly Kind[] = ['PutObject', 'GetObject', 'UploadPart'];
/** But the end of an upload: without `ifAbsent` its repetition meets no upload any more, and the put fails though it was done. */
const repeatable: readonly Kind[] = [...objects, 'ListObjects', 'DeleteObjects', 'CreateMultipartUpload'];

describeProfiles(
  {
    'late requests and answers': { faults: [delayRequest(15), delayAnswer(15)], when: { rate: 0.5 }, isLeftOut: true },
    'resets before, within and behind what is sent': {
      faults: [
        reset,
        resetUpload(),
        resetUpload(-1),
        resetUpload(0),
        resetDownload(),
        resetDownload(-1),
        resetDownload(0),
      ],
      when: { rate: 0.2, kind: repeatable },
    },
    'lost answers': { faults: loseAnswer, when: { rate: 0.2, kind: repeatable } },
    'truncated and broken answers': {
      faults: [truncate(), truncate(0), truncate(-1)],
      when: { rate: 0.2, kind: repeatable },
    },
    'answers cut with their length': { faults: [shorten(), shorten(-1)], when: { rate: 0.2, kind: 'GetObject' } },
    'a wrong Content-Length': {
      faults: [misstateLength(5), misstateLength(-3)],
      when: { rate: 0.01, kind: 'GetObject' },
      idleMs: 1000,
    },
    'a slow trickle': {
      faults: [trickleUpload(100_000), trickleDownload(100_000)],
      when: { rate: 0.02, kind: objects },
    },
    silence: { faults: [stall, stallUpload(), stallDownload()], when: { rate: 0.01, kind: repeatable }, idleMs: 1000 },
  },
  { andDirectly: true },
);
