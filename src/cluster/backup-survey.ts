/** What a base backup is about to read: how much, and whether it may. */
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { toFilePath } from '../byte-path.ts';
import { type FileCheck, type WalkOptions, walkFrom } from './backup-walk.ts';
import { ifThere } from './source-files.ts';

/**
 * Counts files and raw bytes of a backup's walk, beforehand: for progress, free space, and to find unreadable folders and files early.
 * Does not warn: the walk itself will.
 * @throws HostError as the walk does, and when a file may not be read.
 */
export async function surveyDataDirectory(
  options: WalkOptions,
): Promise<{ files: number; rawBytes: number; largestFileBytes: number }> {
  const survey = { files: 0, rawBytes: 0, largestFileBytes: 0 };
  for await (const entry of walkFrom({ ...options, warn: () => undefined }, { check: readableCheck() })) {
    if (entry.type !== 'file') continue;
    survey.files += 1;
    survey.rawBytes += entry.sizeBytes;
    survey.largestFileBytes = Math.max(survey.largestFileBytes, entry.sizeBytes);
  }
  return survey;
}

/** Asks the system once for each kind of owner and mode: of a million files nearly all are of one. */
function readableCheck(): FileCheck {
  const readable = new Set<string>();
  return async (source, { mode, uid, gid }) => {
    const likeness = `${mode} ${uid} ${gid}`;
    if (readable.has(likeness)) return;
    const asked = access(toFilePath(source), constants.R_OK).then(() => true);
    if (await ifThere(source, asked)) readable.add(likeness);
  };
}
