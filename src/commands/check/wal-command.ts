/**
 * Does an archive_command or restore_command call wal-push or wal-fetch as it must be called, and does PostgreSQL see how that ended?
 * Pure: whether the file is there, and which repository it uses, is for `archive-command.ts`.
 */
import { basename } from 'node:path/posix';
import { type Finding, failed, warning } from './finding.ts';
import { parseShellLine, type ShellCommand } from './shell-line.ts';

export type WalSetting = 'archive_command' | 'restore_command';

/** One call of ours. */
export interface WalCall {
  /** As the shell sees it: absolute, relative, or a name to be looked for in PATH. */
  readonly program: string;
  /** What the call is given besides this server's environment. */
  readonly environment: Readonly<Record<string, string>>;
}

export interface Judgement {
  readonly calls: readonly WalCall[];
  /** What is wrong with it, the worst first; none when it is right. */
  readonly findings: readonly Finding[];
}

/** @param text  the setting's value, which is not empty */
export function judgeWalCommand(setting: WalSetting, text: string): Judgement {
  const [own, right] = ownCall[setting];
  const line = parseShellLine(text);
  if (line === undefined) {
    const message = text.includes(own)
      ? `${setting} is more than a simple command: whether it ends as ${own} does cannot be told`
      : `${setting} does not call ${own}`;
    const hint = `Let it be one call, "${right}", as "wal-t init" prints it.`;
    return { calls: [], findings: [warning(message, { detail: text, hint })] };
  }
  const inner = scriptOf(line);
  if (inner !== undefined) return judgeWalCommand(setting, inner);
  const places = line.flatMap((command, index) => {
    const found = findOwn(command, own);
    return found === undefined ? [] : [{ command, index, ...found }];
  });
  if (places.length === 0) return { calls: [], findings: [judgeForeign(setting, line)] };
  const findings = places.flatMap((place) => [
    ...judgeArguments(setting, place.args),
    ...judgeWrapper(setting, place.wrapper),
    ...judgeOutput(setting, place.command),
    ...judgeEnd(setting, line, place.index),
    ...judgeBegin(
      setting,
      line,
      place.index,
      places.some(({ index }) => index === place.index - 1),
    ),
  ]);
  const worstFirst = [...findings].sort((a, b) => Number(b.level === 'failed') - Number(a.level === 'failed'));
  const calls = places.map(({ program, environment }) => ({ program, environment }));
  return { calls, findings: worstFirst.map((finding) => ({ detail: text, ...finding })) };
}

const ownCall = {
  archive_command: ['wal-push', '… wal-push %p %f'],
  restore_command: ['wal-fetch', '… wal-fetch %f %p'],
} as const;

/** Of `sh -c 'script'`, which ends as its script does. */
function scriptOf([command, ...others]: readonly ShellCommand[]): string | undefined {
  if (command === undefined || others.length > 0 || Object.keys(command.assignments).length > 0) return undefined;
  const [shell = '', flag, script, ...more] = command.words;
  const isShell = ['sh', 'bash', 'dash'].includes(basename(shell)) && flag === '-c' && more.length === 0;
  return isShell ? script : undefined;
}

interface Own extends WalCall {
  /** Behind its own name. */
  readonly args: readonly string[];
  /** What stands before it in the same command: `timeout 60`. */
  readonly wrapper: readonly string[];
}

/** Flags that every command of ours has, which take a value. */
const globalFlags: Readonly<Record<string, string>> = {
  '--config': 'WALT_CONFIG',
  '--cluster': 'WALT_SYSTEM_IDENTIFIER',
};

function findOwn(command: ShellCommand, own: string): Own | undefined {
  const { words } = command;
  const at = words.findIndex((word) => basename(word) === own || basename(word) === 'wal-t');
  const program = words[at];
  if (program === undefined) return undefined;
  const environment: Record<string, string> = { ...command.assignments };
  const args = words.slice(at + 1);
  if (basename(program) === 'wal-t') {
    const name = args.indexOf(own);
    if (name < 0) return undefined;
    args.splice(name, 1);
  }
  const wrapper = words.slice(0, at);
  if (wrapper.some((word) => otherTools.test(basename(word)))) return undefined; // "wal-g wal-push"
  for (const [index, word] of wrapper.entries()) {
    const match = /^([A-Za-z_][A-Za-z0-9_]*)=(.*)$/s.exec(word);
    if (index > 0 && match?.[1] !== undefined) environment[match[1]] = match[2] ?? ''; // of env
  }
  const rest = args.filter((word, index) => {
    const [flag = '', value] = word.split('=', 2);
    const before = args[index - 1] ?? '';
    if (globalFlags[before] !== undefined) environment[globalFlags[before]] = word;
    if (globalFlags[flag] !== undefined && value !== undefined) environment[globalFlags[flag]] = value;
    return globalFlags[flag] === undefined && globalFlags[before] === undefined;
  });
  return { program, environment, args: rest, wrapper };
}

function judgeArguments(setting: WalSetting, given: readonly string[]): Finding[] {
  const [own, right] = ownCall[setting];
  const flags = setting === 'restore_command' ? given.filter((word, index) => isFetchFlag(word, given[index - 1])) : [];
  const args = given.filter((word) => !flags.includes(word));
  const [first, second, ...others] = args;
  const hint = `Write "${right}".`;
  if (setting === 'archive_command') {
    if (first === '%f' && second === '%p') {
      return [failed('archive_command has %p and %f the wrong way round', { hint: `${hint} The path stands first.` })];
    }
    const isPath = first === '%p' || /\/%f$/.test(first ?? '');
    if (isPath && (second === undefined || second === '%f') && others.length === 0) return [];
  } else {
    if (first === '%p' && second === '%f') {
      return [failed('restore_command has %f and %p the wrong way round', { hint: `${hint} The name stands first.` })];
    }
    if (first === '%f' && second === '%p' && others.length === 0) return [];
  }
  const missing = (setting === 'archive_command' ? ['%p'] : ['%f', '%p']).find((sign) => !args.includes(sign));
  const message =
    missing === undefined
      ? `${setting} gives ${own} other words than it takes: ${given.join(' ')}`
      : `${setting} does not give ${own} its ${missing}`;
  return [failed(message, { hint })];
}

function isFetchFlag(word: string, before: string | undefined): boolean {
  return word.startsWith('--') || before === '--timeline' || before === '--end-at';
}

/** They end as what they call does, and leave it its signals. */
const harmlessWrappers = new Set(['env', 'exec', 'nice', 'ionice', 'chrt', 'taskset', 'stdbuf', 'command']);

function judgeWrapper(setting: WalSetting, wrapper: readonly string[]): Finding[] {
  const [own, right] = ownCall[setting];
  const name = wrapper[0] === undefined ? undefined : basename(wrapper[0]);
  if (name === undefined || harmlessWrappers.has(name)) return [];
  const hint = `Call it directly: "${right}". It has limits of its own.`;
  if (name === 'timeout' && setting === 'restore_command') {
    const message = 'restore_command is wrapped in timeout: PostgreSQL takes its end, 124, for the end of the WAL';
    return [failed(message, { hint })];
  }
  return [warning(`${own} is called through ${name}, whose end PostgreSQL may see instead of its own`, { hint })];
}

function judgeOutput(setting: WalSetting, { redirections }: ShellCommand): Finding[] {
  const [own] = ownCall[setting];
  const lost =
    redirections.includes('2>/dev/null') ||
    ['>/dev/null', '1>/dev/null'].some((word) => redirections.includes(word) && redirections.includes('2>&1'));
  if (!lost) return [];
  const hint = "Remove the redirection: PostgreSQL's log is where one looks for the reason.";
  return [warning(`${setting} throws away what ${own} says`, { hint })];
}

/** From the call to the end of the line: is its failure still one there? */
function judgeEnd(setting: WalSetting, line: readonly ShellCommand[], place: number): Finding[] {
  const [own, right] = ownCall[setting];
  const consequence =
    setting === 'archive_command'
      ? 'PostgreSQL then recycles WAL that is archived nowhere'
      : 'PostgreSQL then takes any failure for the end of the WAL, and opens the database without the rest';
  const hint = `Let it be "${right}" and nothing behind it.`;
  if (line[place]?.isNegated) {
    return [failed(`${setting} turns the end of ${own} round with "!": ${consequence}`, { hint })];
  }
  for (let index = place; line[index]?.next !== undefined; index += 1) {
    const operator = line[index]?.next ?? ';';
    const behind = line[index + 1];
    const words = behind?.words.join(' ') ?? '';
    if (operator === ';' && words === 'exit $?') continue;
    if (setting === 'archive_command') {
      if (operator === '&&' || (operator === '||' && endsInFailure(behind))) continue;
    }
    return [
      failed(`${setting} hides how ${own} ends behind "${`${operator} ${words}`.trim()}": ${consequence}`, { hint }),
    ];
  }
  return [];
}

function endsInFailure(command: ShellCommand | undefined): boolean {
  const [program = '', code = ''] = command?.words ?? [];
  return basename(program) === 'false' || (program === 'exit' && /^[1-9]\d?$|^1[01]\d$|^12[0-5]$/.test(code));
}

/** What stands before decides whether it is called at all. */
function judgeBegin(setting: WalSetting, line: readonly ShellCommand[], place: number, followsOwn: boolean): Finding[] {
  const [own, right] = ownCall[setting];
  const before = line[place - 1];
  if (before === undefined || followsOwn) return [];
  if (line.slice(0, place).some(({ words: [program] }) => program === 'exit' || program === 'exec')) {
    return [failed(`${setting} may end before ${own} is called`, { hint: `Let it be "${right}".` })];
  }
  const words = before.words.join(' ');
  const hint = `Let it be "${right}" and nothing before it.`;
  if (setting === 'restore_command') {
    if (before.next !== '&&') return []; // "cp … || wal-fetch …" ends as wal-fetch does
    const message = `restore_command calls wal-fetch only where "${words}" succeeds: where it fails, PostgreSQL takes that for the end of the WAL`;
    return [failed(message, { hint })];
  }
  if (before.next === '||') {
    return [
      failed(`archive_command calls ${own} only where "${words}" fails: the rest is not archived here`, { hint }),
    ];
  }
  if (before.next === '&&') {
    return [
      warning(`archive_command calls ${own} only where "${words}" succeeds: elsewhere nothing is archived`, { hint }),
    ];
  }
  return before.next === '|' ? [warning(`archive_command pipes "${words}" into ${own}`, { hint })] : [];
}

/** What other tools' executables are called. */
const otherTools =
  /^(?:wal-[eg]|pgbackrest|barman.*|pg_probackup.*|cp|mv|ln|dd|cat|rsync|scp|ssh|sftp|aws|s3cmd|gsutil|rclone|gzip|zstd|lz4|pg_standby|omniptr|litestream)$/;

function judgeForeign(setting: WalSetting, line: readonly ShellCommand[]): Finding {
  const [own, right] = ownCall[setting];
  const detail = line.map(({ words, next }) => [...words, next].filter(Boolean).join(' ')).join(' ');
  const hint = `Set it to "${right}", as "wal-t init" prints it, then "select pg_reload_conf()".`;
  const program = programOf(line);
  const name = basename(program);
  if (setting === 'archive_command' && (name === 'true' || name === ':' || detail === 'exit 0')) {
    const message = `archive_command archives nothing: it is "${program}", and PostgreSQL recycles what it calls archived`;
    return failed(message, { hint });
  }
  if (name === 'false' || name === 'exit') {
    return failed(`${setting} always fails: it is "${program}"`, { hint });
  }
  const message = `${setting} is not of WAL-T: it runs "${program}"`;
  return otherTools.test(name)
    ? failed(message, { detail, hint })
    : warning(message, { detail, hint: `If it does not call ${own} in the end: ${hint}` });
}

/** The one that does the work: of all words another tool's name, else the last program that is not a mere test. */
function programOf(line: readonly ShellCommand[]): string {
  const tool = line.flatMap(({ words }) => words).find((word) => otherTools.test(basename(word)));
  if (tool !== undefined) return tool;
  const programs = line.map(({ words }) => words[0] ?? '');
  const trifles = ['test', '[', 'echo', 'logger', 'mkdir', 'set', 'umask', ''];
  return programs.findLast((program) => !trifles.includes(basename(program))) ?? programs[0] ?? '';
}
