/** The package types only its documented entry, which ignores the level (H43). */
declare module '@mongodb-js/zstd/bindings.js' {
  export function compress(raw: Buffer, level: number): Promise<Buffer>;
  export function decompress(frame: Buffer): Promise<Buffer>;
}
