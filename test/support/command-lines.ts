/** The command lines of WAL-T that stand in documents and examples, to be held against the parser. */

/** The lines of shell blocks, and what stands in backticks. */
export function* candidatesIn(markdown: string): Generator<string> {
  for (const [, block = ''] of markdown.matchAll(/^ *```(?:sh|console)\n(.*?)^ *```$/gms)) yield* block.split('\n');
  for (const [, inline = ''] of markdown.replaceAll(/^ *```.*?^ *```$/gms, '').matchAll(/`([^`\n]+)`/g)) yield inline;
}

/** The words of a command as a shell has them, without what it keeps to itself; `…` stands for something. */
function wordsOf(command: string): string[] {
  const words = command.trim().matchAll(/'([^']*)'|((?:[^\s']|…)+)/g);
  const own = [...words].map(([word, quoted, plain]) => ({ word, text: quoted ?? plain ?? '' }));
  const end = own.findIndex(({ word }) => /^(#|>|\||;|&)/.test(word));
  return own.slice(0, end < 0 ? undefined : end).map(({ text }) => text);
}

const program =
  /^(?:\/opt\/wal-t\/bin\/|bin\/)?(wal-t|wal-push|wal-fetch|basebackup-push|basebackup-fetch|backup-list|delete)$/;

/** What each command line asks the parser for: the command's name, and its words. A name that stands alone is only a name. */
export function commandsIn(candidates: Iterable<string>): string[][] {
  return [...candidates].map(wordsOf).flatMap(([first = '', ...words]) => {
    const name = program.exec(first)?.[1];
    if (name === undefined || words.length === 0) return name === 'backup-list' ? [[name]] : [];
    return [name === 'wal-t' ? words : [name, ...words]];
  });
}
