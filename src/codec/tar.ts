/**
 * Headers of a tar archive: ustar, with pax records for what does not fit. Writing only: a restore goes by the list of files, and `tar x` by these.
 * @see POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"
 */
import { isUtf8 } from 'node:buffer';
import { type BytePath, toFilePath } from '../byte-path.ts';

const blockBytes = 512;
const nameBytes = 100;
/** Eleven octal digits. */
const maxUstarSize = 8 ** 11 - 1;
/** Seven octal digits. */
const maxUstarId = 8 ** 7 - 1;

export interface TarMember {
  readonly type: 'file' | 'folder';
  /** Relative; of a folder without a slash at its end. */
  readonly path: BytePath;
  readonly sizeBytes: number;
  /** Permission bits alone. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
}

/** The blocks that stand before a member's content: one, or three and more where a name or a number is too long for ustar. */
export function encodeTarHeader(member: TarMember): Buffer {
  const path = member.type === 'folder' ? `${member.path}/` : member.path;
  const long = path.length > nameBytes;
  const records = [
    long && !isUtf8(toFilePath(path)) ? record('hdrcharset', 'BINARY') : '',
    long ? record('path', path) : '',
    member.sizeBytes > maxUstarSize ? record('size', String(member.sizeBytes)) : '',
    member.uid > maxUstarId ? record('uid', String(member.uid)) : '',
    member.gid > maxUstarId ? record('gid', String(member.gid)) : '',
  ].join('');
  const header = encodeUstar({
    ...member,
    name: path,
    typeFlag: member.type === 'folder' ? '5' : '0',
    sizeBytes: Math.min(member.sizeBytes, maxUstarSize),
  });
  if (records === '') return header;
  const extended = Buffer.from(records, 'latin1');
  const extendedHeader = encodeUstar({ ...member, name: 'pax_header', typeFlag: 'x', sizeBytes: extended.length });
  return Buffer.concat([extendedHeader, extended, Buffer.alloc(tarPadding(extended.length)), header]);
}

/** How many zero bytes follow content of this length. */
export function tarPadding(sizeBytes: number): number {
  return (blockBytes - (sizeBytes % blockBytes)) % blockBytes;
}

/** Ends an archive. */
export const tarEnd: Uint8Array = new Uint8Array(2 * blockBytes);

/** A pax record counts its own length. */
function record(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return `${length}${rest}`;
}

interface UstarHeader extends Omit<TarMember, 'type' | 'path'> {
  readonly name: string;
  readonly typeFlag: string;
}

function encodeUstar({ name, typeFlag, sizeBytes, mode, uid, gid, mtimeSeconds }: UstarHeader): Buffer {
  const header = Buffer.alloc(blockBytes);
  header.write(name.slice(0, nameBytes), 0, 'latin1');
  header.write(octal(mode & 0o7777, 8), 100, 'latin1');
  header.write(octal(Math.min(uid, maxUstarId), 8), 108, 'latin1');
  header.write(octal(Math.min(gid, maxUstarId), 8), 116, 'latin1');
  header.write(octal(sizeBytes, 12), 124, 'latin1');
  header.write(octal(Math.min(Math.max(0, mtimeSeconds), maxUstarSize), 12), 136, 'latin1');
  header.write('        ', 148, 'latin1'); // the checksum counts itself as spaces
  header.write(typeFlag, 156, 'latin1');
  header.write('ustar\u000000', 257, 'latin1');
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${octal(sum, 7)} `, 148, 'latin1');
  return header;
}

/** Octal digits that fill a field but for the NUL that ends it. */
function octal(value: number, fieldBytes: number): string {
  return `${value.toString(8).padStart(fieldBytes - 1, '0')}\0`;
}
