/** WAL locations. @see PostgreSQL `src/include/access/xlogdefs.h` */

/** A byte position in the WAL, 64 bits. */
export type Lsn = bigint;

/** `"16/B374D848"` → LSN; undefined when it is none. */
export function parseLsn(text: string): Lsn | undefined {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text);
  if (match?.[1] === undefined || match[2] === undefined) return undefined;
  return (BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`);
}

/** LSN → `"16/B374D848"`, as PostgreSQL prints it. */
export function formatLsn(lsn: Lsn): string {
  const high = (lsn >> 32n).toString(16);
  const low = (lsn & 0xffff_ffffn).toString(16);
  return `${high}/${low}`.toUpperCase();
}
