/** Every limit in one place: how long something may take and how large something may be. Settings may change the times. */

const kibibyte = 1024;
const mebibyte = 1024 * kibibyte;
const second = 1000;
const minute = 60 * second;

/** Bounds on sizes; part of the format where docs/FORMAT.md names them. */
export const limits = {
  /** Raw content of one zstd frame. */
  frameRawBytes: mebibyte,
  /** Compressed form of one frame: zstd's own bound for 1 MiB, with room for its headers. */
  frameStoredBytes: mebibyte + 16 * kibibyte,
  /** Blocks in one frame: zstd makes eight of 1 MiB, more when it splits them. */
  frameBlocks: 256,
  /** What a reader must remember to decompress a frame. */
  frameWindowBytes: 8 * mebibyte,
  /** The envelope's JSON. */
  headerBytes: 4 * kibibyte,
  /** Recipients of one object: their stanzas stand within the range that is read to tell what is stored. */
  recipients: 100,
  /** `repository.json` and `cluster.json`. */
  documentBytes: 64 * kibibyte,
  /** History files and backup labels; PostgreSQL writes less than one kilobyte. */
  smallFileBytes: mebibyte,
  /** A backup's manifest: a few kilobytes, and what people annotate. */
  manifestBytes: 4 * mebibyte,
  /** What a deletion is about to remove, as ranges. */
  planBytes: 16 * mebibyte,
  /** `wal_segment_size`, at most. */
  segmentBytes: 1024 * mebibyte,
  /** A compressed segment up to this size is held in memory; a larger one is compressed a second time while it is sent. */
  heldBytes: 64 * mebibyte,
  /** Files that are archived or fetched ahead of PostgreSQL: how many at a time, how many bytes of them, and how many bytes in one call to archive. */
  aheadInFlight: 4,
  aheadInFlightBytes: 64 * mebibyte,
  aheadPushBytes: 1024 * mebibyte,
  /** Of segments that lie ready for PostgreSQL, which has not asked for them yet. */
  aheadBytes: 512 * mebibyte,
  /** In recovery: the first batch of segments, and the share of the free space that those may take which PostgreSQL has not asked for yet. */
  aheadFirst: 4,
  aheadSpaceShare: 0.1,
  /** The beginning of one frame of so many is compressed in two ways, to see which suits the content. */
  trialBytes: 256 * kibibyte,
  framesOfTrial: 16,
  /** Frames compressed or decompressed at the same time. */
  framesInFlight: 4,
  /** The same of one part: its worker is one of as many as there are processors, and each more only takes the others' caches from them. */
  framesOfPartInFlight: 2,
  /** A part of a backup closes after so much raw content, or so many files: a worker's task. */
  partRawBytes: 256 * mebibyte,
  partFiles: 2048,
  /** One line of a backup's list of files: a path, and where its content stands. */
  lineBytes: 2 * mebibyte,
  /** Into so many pieces a file of a backup may fall: their line must not become longer. */
  extentsOfFile: 64 * kibibyte,
  /** A part is read in windows of this size, so many at the same time. */
  windowBytes: 4 * mebibyte,
  windowsInFlight: 2,
  /** Of a part that is needed in pieces so many ranges are read at the same time: no more of them than two windows hold. */
  rangesInFlight: 8,
  /** What nobody needs is read along when it is shorter than a request costs. */
  rangeGapBytes: 256 * kibibyte,
  /** A part's seek table: 12 bytes for each MiB of what is stored together, a file at least. */
  seekTableBytes: 16 * mebibyte,
  /** Seek tables are held for so many frames of all parts together: 16 bytes each. */
  framesKnown: 256 * kibibyte,
  /** Files that are restored together where they are stored in pieces: of so many bytes, and of so many pieces. */
  restoreRawBytes: [256 * mebibyte, 512 * mebibyte],
  restoreExtents: 64 * kibibyte,
  /** What is to be proved of other backups' parts, before they are read for it. */
  verifyPieces: 256 * kibibyte,
  /** Files that one worker writes to at the same time. */
  filesOpen: 64,
  /** Files that are fsynced at the same time: half of Node's threads, since the others decompress. */
  syncsInFlight: 8,
  /** Pages with a wrong checksum that are named; more are only counted. */
  badPagesNamed: 1000,
  /** One ranged read: some gateways close a long response behind a slow reader. */
  rangeBytes: 16 * mebibyte,
  /** One part of an upload, the least that stores allow, and how many of them one object may have: the strictest allows a thousand. */
  partBytes: 5 * mebibyte,
  partsOfUpload: 1000,
  partsInFlight: 2,
  /** How often one request is sent again. */
  requestRetries: 6,
  /** The longest pause that a storage may ask for. */
  retryAfterMs: 30 * 1000,
  /** The longest request that takes back a failed upload. */
  takeBackMs: 10 * 1000,
} as const;

/** Bounds on times in milliseconds: the defaults of the settings that bear their names. */
export const defaultTimes = {
  connectMs: 10 * second,
  idleMs: 30 * second,
  requestMs: 5 * minute,
  walPushMs: 10 * minute,
  walFetchRecoveryMs: 5 * minute,
  walFetchStandbyMs: 15 * second,
  walFetchPromoteMs: 30 * second,
  backupWalMs: 10 * minute,
  aheadMs: 10 * second,
} as const;

/** How long a file that was archived ahead is answered for without looking: what is stored may be set aside meanwhile. */
export const markerLastMs = 5 * minute;

/** A promotion elsewhere changes what is true: a standby is fetched as much as it replays in the first, and given it no longer than the second. */
export const standbyBatchMs = 10 * second;
export const standbyLastMs = 2 * standbyBatchMs;

/** How often a batch looks whether its server is being promoted, and so long no segment is fetched ahead where not one came in time. */
export const promotionLookMs = second / 2;
export const aheadRestMs = 10 * minute;

/** The reader in the background: how often it looks whether it still may run, how often for segments that were taken, and after how long without any it ends. */
export const readerLookMs = second / 10;
export const readerPauseMs = second / 40;
export const readerIdleMs = 30 * second;

/** How often a backup gives a sign of life, and after what silence it is taken for dead. */
export const leaseRenewalMs = 5 * minute;
export const leaseExpiryMs = 30 * minute;

/** How long an increment waits for the server's WAL summaries: it does without, if need be. */
export const summariesMs = 2 * minute;

/** How long PostgreSQL may take from removing a tablespace's folder to removing the link to it. */
export const tablespaceDropMs = second;

/** A file that was written to so shortly before a backup may have been written to again with the same times. */
export const trustedTimesMs = minute;

/** A deletion of another host that gave no sign for so long is dead: by the storage's clock. */
export const planExpiryMs = 60 * minute;

/** An upload that was begun so long ago, and is not of a running backup, was broken off. */
export const uploadExpiryMs = 24 * 60 * minute;

/** How often a command that waits says so. */
export const reminderMs = 30 * second;

/** How long a command may take to clean up after SIGTERM or SIGINT. */
export const cleanUpMs = 2 * second;

/** How long `wal-t check` waits for any single check, and for what several look at; for each other one when one was late already. */
export const checkLimitMs = 2 * minute;
export const checkAfterLateMs = 10 * second;
export const checkSharedMs = 2 * minute; // a listing of a million keys takes a minute, and what is silent is told of earlier

/** The longest silence of a storage or a server for `wal-t check`, and how long it has requests repeated: it is to tell, not to get through. */
export const checkIdleMs = 15 * second;
export const checkPatienceMs = 10 * second;

/** How old the last reading of every stored byte may be. */
export const deepVerifyMaxAgeMs = 35 * 24 * 60 * minute;

/** How long `wal-t check` waits for a segment to arrive in the archive. */
export const checkRoundTripMs = minute;

/** What `wal-t check` finds fault with: the first is a warning, the second is failed. */
export const checkThresholds = {
  /** The oldest file that waits to be archived. */
  backlogAgeMs: [10 * minute, 60 * minute],
  /** So many segments that wait are a warning, however young. */
  backlogSegments: 256,
  /** The archiver neither archives what waits nor counts a failure. */
  archiverSilenceMs: 5 * minute,
  /** Until pg_wal is full, where nothing is recycled. */
  walSpaceMs: [24 * 60 * minute, 4 * 60 * minute],
  /** The rate at which WAL is written is that of so long, or of the last segment where that is older. */
  walRateMs: 15 * minute,
  /** `archive_timeout`: what a lost host may cost. */
  archiveTimeoutMs: 60 * minute,
} as const;

/** Between two attempts of the same request, in p-retry's words. */
export const retryPause = { minTimeout: 250, maxTimeout: 5000, factor: 2, randomize: true } as const;
