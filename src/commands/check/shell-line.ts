/**
 * A line of sh, such as an archive_command, as the simple commands that it consists of. Pure; expands nothing, runs nothing.
 * @see https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html
 */

/** What stands between a command and the next one. */
export type Operator = '&&' | '||' | ';' | '|' | '&';

export interface ShellCommand {
  /** `NAME=value` in front of the program. */
  readonly assignments: Readonly<Record<string, string>>;
  /** The program and its arguments, without quotes; `$` and backquotes as they stand there. */
  readonly words: readonly string[];
  /** `2>/dev/null`, `>>log`, `2>&1`: without spaces. */
  readonly redirections: readonly string[];
  /** `! command` */
  readonly isNegated: boolean;
  /** Undefined behind the last one. */
  readonly next: Operator | undefined;
}

/** At least one command, or none for an empty line. Undefined when the line is more than a list of simple commands, or not finished. */
export function parseShellLine(text: string): readonly ShellCommand[] | undefined {
  const tokens = tokenize(text);
  if (tokens === undefined) return undefined;
  const commands: ShellCommand[] = [];
  let current: Token[] = [];
  for (const token of tokens) {
    if (token.kind !== 'operator') {
      current.push(token);
      continue;
    }
    if (current.length === 0) return undefined; // "; ;"
    const command = commandOf(current, token.text as Operator);
    if (command === undefined) return undefined;
    commands.push(command);
    current = [];
  }
  if (current.length > 0) {
    const command = commandOf(current, undefined);
    if (command === undefined) return undefined;
    commands.push(command);
  }
  return finished(commands);
}

/** A `;` at the end changes nothing; after the others a command must follow, but for `&`. */
function finished(commands: readonly ShellCommand[]): readonly ShellCommand[] | undefined {
  const last = commands.at(-1);
  if (last?.next === undefined || last.next === '&') return commands;
  return last.next === ';' ? [...commands.slice(0, -1), { ...last, next: undefined }] : undefined;
}

interface Token {
  readonly kind: 'word' | 'operator' | 'redirection';
  readonly text: string;
  /** Was any of it quoted? Then it is no reserved word and no assignment's name. */
  readonly isQuoted: boolean;
}

const reserved = new Set('if then else elif fi for while until do done case esac in { } function [['.split(' '));

function commandOf(tokens: readonly Token[], next: Operator | undefined): ShellCommand | undefined {
  const redirections = tokens.filter(({ kind }) => kind === 'redirection').map(({ text }) => text);
  let words = tokens.filter(({ kind }) => kind === 'word');
  const isNegated = words[0]?.text === '!' && !words[0].isQuoted;
  if (isNegated) words = words.slice(1);
  const assignments: Record<string, string> = {};
  let first = 0;
  for (const { text } of words) {
    const match = /^([A-Za-z_][A-Za-z0-9_]*)=(.*)$/s.exec(text);
    if (match?.[1] === undefined) break;
    assignments[match[1]] = match[2] ?? '';
    first += 1;
  }
  const program = words[first];
  if (program !== undefined && !program.isQuoted && reserved.has(program.text)) return undefined;
  return { assignments, words: words.slice(first).map(({ text }) => text), redirections, isNegated, next };
}

/** Undefined for what is left to the shell: subshells, here-documents, command substitutions, quotes without an end. */
function tokenize(text: string): readonly Token[] | undefined {
  const tokens: Token[] = [];
  let rest = text;
  for (;;) {
    rest = rest.replace(/^(?:[ \t]|\\\n)+/, '').replace(/^#[^\n]*/, '');
    if (rest === '') return tokens;
    const operator = /^(?:&&|\|\||;|\||&(?!>)|\n)/.exec(rest)?.[0];
    if (operator !== undefined) {
      rest = rest.slice(operator.length);
      if (operator !== '\n') tokens.push({ kind: 'operator', text: operator, isQuoted: false });
      else if (tokens.length > 0 && tokens.at(-1)?.kind !== 'operator' && rest.trim() !== '')
        tokens.push({ kind: 'operator', text: ';', isQuoted: false });
      continue;
    }
    if (/^(?:[()]|\d*<<)/.test(rest)) return undefined;
    const redirection = /^(\d*(?:>>|>\||>&|<&|<>|>|<))[ \t]*/.exec(rest);
    if (redirection?.[1] !== undefined) rest = rest.slice(redirection[0].length);
    const word = readWord(rest);
    if (word === undefined || word.length === 0) return undefined;
    rest = rest.slice(word.length);
    const kind = redirection?.[1] === undefined ? 'word' : 'redirection';
    tokens.push({ kind, text: `${redirection?.[1] ?? ''}${word.text}`, isQuoted: word.isQuoted });
  }
}

interface Word {
  readonly text: string;
  readonly isQuoted: boolean;
  /** Of what it was read from. */
  readonly length: number;
}

/** One after the other: text that stands for itself, an escaped character, a string in single or in double quotes. */
const pieces: readonly {
  readonly pattern: RegExp;
  readonly read: (piece: string) => string;
  readonly quoted: boolean;
}[] = [
  { pattern: /^[^\s;&|<>()'"\\]+/, read: (piece) => piece, quoted: false },
  { pattern: /^\\\n/, read: () => '', quoted: false },
  { pattern: /^\\[^\n]/, read: (piece) => piece.slice(1), quoted: true },
  { pattern: /^'[^']*'/, read: (piece) => piece.slice(1, -1), quoted: true },
  {
    pattern: /^"(?:[^"\\]|\\[\s\S])*"/,
    read: (piece) =>
      piece
        .slice(1, -1)
        .replace(/\\([\s\S])/g, (both, character: string) =>
          character === '\n' ? '' : '$`"\\'.includes(character) ? character : both,
        ),
    quoted: true,
  },
];

function readWord(from: string): Word | undefined {
  let [text, isQuoted, length] = ['', false, 0];
  while (length < from.length && !/^[\s;&|<>()]/.test(from.slice(length))) {
    const rest = from.slice(length);
    const piece = pieces.find(({ pattern }) => pattern.test(rest));
    const found = piece?.pattern.exec(rest)?.[0];
    if (piece === undefined || found === undefined) return undefined; // a quote without an end
    if (!found.startsWith("'") && /\$\(|`/.test(found)) return undefined;
    if (found.endsWith('$') && rest[found.length] === '(') return undefined;
    text += piece.read(found);
    isQuoted ||= piece.quoted;
    length += found.length;
  }
  return { text, isQuoted, length };
}
