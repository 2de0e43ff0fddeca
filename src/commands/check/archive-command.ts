/** Are archive_command and restore_command ours and right: as they are written, as files that are there, and with these settings? */
import { constants } from 'node:fs';
import { access, readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { findPostmaster, type PostmasterProcess } from '../../cluster/postmaster-process.ts';
import { type Entries, mergeEntries } from '../../config.ts';
import { ConfigurationError, systemErrorCode, systemErrorReason } from '../../errors.ts';
import { defaultConfigFile } from '../../settings.ts';
import { isArchiving } from './archiving.ts';
import { type Check, type Finding, failed, NotLookedAt, ok, warning } from './finding.ts';
import type { RunningServer } from './running-server.ts';
import { readServerSettings } from './server-settings.ts';
import type { Subject } from './subject.ts';
import { judgeWalCommand, type WalCall, type WalSetting } from './wal-command.ts';

export const archiveCommand: Check = {
  name: 'archive-command',
  about: 'archive_command and restore_command call wal-push and wal-fetch as they must be called',
  async look(subject) {
    const server = await subject.server.get();
    const settings = await readServerSettings(server, ['archive_command', 'archive_library', 'restore_command']);
    const place = { server, subject, postmaster: await findPostmaster(server.dataDirectory) };
    const isOff = server.archiveMode === 'off' || (settings.archive_library?.value ?? '') !== '';
    const archive = isOff ? undefined : settings.archive_command?.value;
    const restore = settings.restore_command?.value ?? '';
    const findings = [
      // what nothing depends on yet is no failure yet
      ...(archive === undefined
        ? []
        : cappedUnless(isArchiving(server), await judge('archive_command', archive, place))),
      ...(restore === '' ? [] : cappedUnless(server.inRecovery, await judge('restore_command', restore, place))),
    ];
    if (findings.length > 0) return findings;
    if (isOff) throw new NotLookedAt('archive_command is not in force: see "archiving"');
    if (archive === undefined) throw new NotLookedAt('the role may not read archive_command: see "privileges"');
    return ok('archive_command calls wal-push as it must be called', {
      detail: place.postmaster.isHere
        ? archive
        : `${archive}; its file and its settings are elsewhere, and were not looked at`,
    });
  },
};

interface Place {
  readonly server: RunningServer;
  readonly subject: Subject;
  readonly postmaster: PostmasterProcess;
}

function cappedUnless(isInForce: boolean, findings: readonly Finding[]): Finding[] {
  return findings.map((finding) => (isInForce ? finding : { ...finding, level: 'warning' }));
}

async function judge(setting: WalSetting, text: string, place: Place): Promise<readonly Finding[]> {
  if (text.trim() === '' || text === '(disabled)') {
    const hint = `Set it as "wal-t init" prints it, then "select pg_reload_conf()".`;
    return [failed(`${setting} is empty: nothing is archived, and WAL piles up in pg_wal`, { hint })];
  }
  const { calls, findings } = judgeWalCommand(setting, text);
  if (!place.postmaster.isHere) return findings;
  const more: Finding[] = [];
  for (const call of calls) more.push(...(await judgeCall(setting, call, place)));
  return [...findings, ...more.map((finding) => ({ ...finding, detail: finding.detail ?? text }))];
}

async function judgeCall(setting: WalSetting, call: WalCall, place: Place): Promise<readonly Finding[]> {
  const file = await judgeProgram(setting, call, place);
  if (file?.level === 'failed') return [file];
  const repository = await judgeRepository(setting, call, place);
  return [file, repository].filter((finding) => finding !== undefined);
}

async function judgeProgram(
  setting: WalSetting,
  { program, environment }: WalCall,
  { server, postmaster }: Place,
): Promise<Finding | undefined> {
  const name = program.replaceAll('%%', '%');
  const hint = `Name it by its whole path, as "wal-t init" prints it, then "select pg_reload_conf()".`;
  if (/[$`*?]/.test(name)) return warning(`${setting} leaves it to the shell which file "${program}" is`, { hint });
  if (!name.includes('/')) {
    const path = environment.PATH ?? postmaster.environment?.PATH;
    const isThere = await isOnPath(name, path);
    if (isThere) return undefined;
    const message = `${setting} names "${name}" without its folder`;
    if (path === undefined) return warning(`${message}: whether the server's PATH has it cannot be seen`, { hint });
    return failed(`${message}, and the server's PATH does not have it`, { detail: `PATH=${path}`, hint });
  }
  const why = await notExecutable(resolve(server.dataDirectory ?? '/', name));
  if (why !== undefined) return failed(`${setting} calls "${name}", which cannot be run: ${why}`, { hint });
  if (name.startsWith('/')) return undefined;
  return warning(`${setting} names "${name}" by a path relative to the data directory`, { hint });
}

async function isOnPath(name: string, path: string | undefined): Promise<boolean> {
  for (const folder of path?.split(':') ?? []) {
    if (folder.startsWith('/') && (await notExecutable(join(folder, name))) === undefined) return true;
  }
  return false;
}

/** Why this account cannot run it; undefined when it can. */
async function notExecutable(path: string): Promise<string | undefined> {
  try {
    if (!(await stat(path)).isFile()) return 'it is not a file';
    await access(path, constants.X_OK);
    return undefined;
  } catch (error) {
    return systemErrorReason(error);
  }
}

/** Does the call use the repository that this command looks at? Undefined where it does, and where nobody can see. */
async function judgeRepository(setting: WalSetting, call: WalCall, place: Place): Promise<Finding | undefined> {
  const { postmaster, subject, server } = place;
  const own = await subject.url.get().catch(() => undefined);
  const environment = { ...postmaster.environment, ...call.environment };
  const named = environment.WALT_CONFIG?.replaceAll('%%', '%');
  const path = resolve(server.dataDirectory ?? '/', named ?? defaultConfigFile);
  let entries: Entries;
  try {
    const text = await readFile(path, 'utf8').catch((error: unknown) => {
      if (named === undefined && systemErrorCode(error) === 'ENOENT') return undefined;
      throw error;
    });
    entries = mergeEntries(environment, text === undefined ? undefined : { path, text });
  } catch (error) {
    if (error instanceof ConfigurationError) {
      return failed(`the settings of ${setting} are wrong: ${error.message}`, { hint: error.hint });
    }
    const message = `the settings file of ${setting}, "${path}", cannot be read: ${systemErrorReason(error)}`;
    if (systemErrorCode(error) === 'EACCES') {
      return warning(message, { hint: 'Run this as the user that PostgreSQL runs as, who must be able to read it.' });
    }
    return failed(message, { hint: 'Correct WALT_CONFIG there, then "select pg_reload_conf()".' });
  }
  const used = entries.WALT_REPO?.value;
  if (used === undefined) {
    if (postmaster.environment === undefined) return undefined;
    return failed(`${setting} is given no WALT_REPO`, {
      hint: `PostgreSQL does not see a shell's settings: put them into ${defaultConfigFile}, or name a file by WALT_CONFIG=… in front of the call.`,
    });
  }
  if (own === undefined || withoutSlash(used) === withoutSlash(own)) return undefined;
  return failed(`${setting} uses another repository than this command`, {
    detail: `there ${used}, by ${entries.WALT_REPO?.source}; here ${own}`,
    hint: 'Let both use the same settings: name the same file by WALT_CONFIG=….',
  });
}

function withoutSlash(url: string): string {
  return url.replace(/\/+$/, '');
}
