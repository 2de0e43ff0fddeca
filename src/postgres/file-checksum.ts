/** The checksum of a file for `backup_manifest`, computed while its bytes pass. */
import { createHash } from 'node:crypto';
import { crc32c } from '@node-rs/crc32';
import { checksumAlgorithms, formatCrc32c } from './backup-manifest.ts';

/** What `--manifest-checksums` may be. */
export const manifestChecksums = ['NONE', ...checksumAlgorithms] as const;
export type ManifestChecksums = (typeof manifestChecksums)[number];

export interface FileChecksum {
  update(bytes: Uint8Array): void;
  /** Hexadecimal, as PostgreSQL writes it; undefined for NONE. */
  end(): string | undefined;
}

export function makeChecksum(algorithm: ManifestChecksums): FileChecksum {
  if (algorithm === 'NONE') return { update: () => undefined, end: () => undefined };
  if (algorithm !== 'CRC32C') {
    const hash = createHash(algorithm.toLowerCase());
    return { update: (bytes) => hash.update(bytes), end: () => hash.digest('hex') };
  }
  let crc = 0;
  return {
    update: (bytes) => {
      crc = crc32c(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length), crc);
    },
    end: () => formatCrc32c(crc),
  };
}
