/** Messages for people and log collectors: one line each, in the form of PostgreSQL's error style guide. */

export const logLevels = ['error', 'warning', 'info', 'debug'] as const;
export type LogLevel = (typeof logLevels)[number];
export type LogFormat = 'text' | 'json';

export interface LogDetails {
  readonly detail?: string | undefined;
  readonly hint?: string | undefined;
}

export interface Log {
  error(message: string, details?: LogDetails): void;
  warning(message: string, details?: LogDetails): void;
  info(message: string, details?: LogDetails): void;
  debug(message: string, details?: LogDetails): void;
}

export interface LogOptions {
  /** The executable's name, which begins every line. */
  readonly program: string;
  readonly level: LogLevel;
  readonly format: LogFormat;
  readonly write: (line: string) => void;
}

/** A log that writes every message of `level` and above as one line for each of message, detail and hint. */
export function openLog({ program, level, format, write }: LogOptions): Log {
  const say = (severity: LogLevel, message: string, { detail, hint }: LogDetails = {}): void => {
    if (logLevels.indexOf(severity) > logLevels.indexOf(level)) return;
    if (format === 'json') {
      const time = new Date().toISOString();
      write(`${JSON.stringify({ time, program, severity, message, detail, hint })}\n`);
      return;
    }
    write(`${program}: ${severity}: ${oneLine(message)}\n`);
    if (detail !== undefined) write(`${program}: detail: ${oneLine(detail)}\n`);
    if (hint !== undefined) write(`${program}: hint: ${oneLine(hint)}\n`);
  };
  return {
    error: (message, details) => say('error', message, details),
    warning: (message, details) => say('warning', message, details),
    info: (message, details) => say('info', message, details),
    debug: (message, details) => say('debug', message, details),
  };
}

/** A message that names a file or a foreign text must not forge a line of PostgreSQL's log, nor command a terminal. */
function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ').trimEnd();
}
