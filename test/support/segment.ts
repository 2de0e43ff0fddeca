/** WAL segments as PostgreSQL writes them, made without a server: a sound first page and content that compresses like WAL. */
import { createCipheriv, createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseWalFileName, segmentStart } from '../../src/postgres/wal-file-name.ts';
import { giveAway } from './account.ts';

export interface SegmentOptions {
  readonly systemIdentifier?: string;
  readonly sizeBytes?: number;
  /** The timeline in the header, where it is not the name's. */
  readonly timeline?: number;
  /** Another seed, other content. */
  readonly seed?: string;
  /** What stands behind the header: like WAL unless told otherwise. */
  readonly fill?: 'wal' | 'random' | 'zeros';
}

export const testSystemIdentifier = '7312345678901234567';

/** The content of the segment `name`. */
export function makeSegment(name: string, options: SegmentOptions = {}): Buffer {
  const { systemIdentifier = testSystemIdentifier, sizeBytes = 1024 * 1024, seed = '', fill = 'wal' } = options;
  const file = parseWalFileName(name);
  if (file === undefined || file.kind === 'history') throw new Error(`no segment: ${name}`);
  const key = createHash('md5').update(`${name}${seed}`).digest();
  const zeros = Buffer.alloc(sizeBytes);
  const content = fill === 'zeros' ? zeros : createCipheriv('aes-128-ctr', key, key).update(zeros);
  if (fill === 'wal') content.fill(0, 0, 40);
  // of 96 bytes a third is zeros: a call for each would take longer than all the rest
  for (let gap = 40 + 64; fill === 'wal' && gap < sizeBytes; gap += 96) {
    const end = Math.min(gap + 32, sizeBytes);
    for (let at = gap; at < end; at += 1) content[at] = 0;
  }
  content.writeUInt16LE(0xd116, 0);
  content.writeUInt16LE(0x0002, 2);
  content.writeUInt32LE(options.timeline ?? file.timeline, 4);
  content.writeBigUInt64LE(segmentStart(file, sizeBytes) ?? 0n, 8);
  content.writeBigUInt64LE(BigInt(systemIdentifier), 24);
  content.writeUInt32LE(sizeBytes, 32);
  content.writeUInt32LE(8192, 36);
  return content;
}

/** A `global/pg_control` as far as WAL-T reads it. */
export function makeControlFile(systemIdentifier = testSystemIdentifier, segmentSizeBytes = 1024 * 1024): Buffer {
  const content = Buffer.alloc(8192);
  content.writeBigUInt64LE(BigInt(systemIdentifier), 0);
  content.writeUInt32LE(1300, 8);
  content.writeUInt32LE(1, 48);
  content.writeDoubleLE(1234567, 208);
  content.writeUInt32LE(segmentSizeBytes, 228);
  return content;
}

/** A data directory with as much in it as the commands look at. @returns a function that puts files into its pg_wal. */
export function makeDataDirectory(
  folder: string,
  systemIdentifier?: string,
): (name: string, content: Buffer) => string {
  for (const part of ['', 'global', 'pg_wal', 'pg_wal/archive_status']) {
    mkdirSync(join(folder, part), { recursive: true });
    giveAway(join(folder, part));
  }
  writeFileSync(join(folder, 'PG_VERSION'), '17\n');
  writeFileSync(join(folder, 'global/pg_control'), makeControlFile(systemIdentifier));
  return (name, content) => {
    const path = join('pg_wal', name);
    writeFileSync(join(folder, path), content);
    giveAway(join(folder, path));
    return path;
  };
}
