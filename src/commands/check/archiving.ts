/** Does the server archive at all, and is nothing of a restore left that keeps it from doing so? */

import { checkThresholds } from '../../limits.ts';
import { formatDuration } from '../../quantities.ts';
import { armingStatements } from '../restore/arming.ts';
import { type Check, type Finding, failed, NotLookedAt, ok, warning } from './finding.ts';
import type { RunningServer } from './running-server.ts';
import { readServerSettings, type ServerSettings } from './server-settings.ts';

export const archiving: Check = {
  name: 'archiving',
  about: 'archive_mode and what belongs to it are set, also after a restore',
  async look(subject) {
    const server = await subject.server.get();
    const settings = await readServerSettings(server, names);
    if (server.archiveMode === 'off') return whyOff(server, settings);
    const library = settings.archive_library?.value ?? '';
    if (library !== '') return failed(...libraryInstead(server, library));
    const findings = [...judgeTimeout(server, settings), ...leftFromRestore(server, settings)];
    if (findings.length > 0) return findings;
    if (!isArchiving(server)) {
      return ok('this standby does not archive: its primary does', {
        detail: 'archive_mode is on, so it will once it is promoted',
      });
    }
    return ok(`archive_mode is ${server.archiveMode}, wal_level ${settings.wal_level?.value}`, {
      detail: server.inRecovery ? undefined : `archive_timeout ${settings.archive_timeout?.value} s`,
    });
  },
};

const targets = ['recovery_target', 'recovery_target_time', 'recovery_target_lsn', 'recovery_target_name'].concat(
  'recovery_target_xid',
);
const names = ['archive_mode', 'archive_library', 'archive_timeout', 'wal_level', 'restore_command'].concat(
  'recovery_target_timeline',
  targets,
);

/** Does this server call its archive_command? */
export function isArchiving({ archiveMode, inRecovery }: RunningServer): boolean {
  return archiveMode === 'always' || (archiveMode === 'on' && !inRecovery);
}

/** @throws NotLookedAt when it does not. */
export function expectArchiving(server: RunningServer): void {
  if (server.archiveMode === 'off') throw new NotLookedAt('nothing is archived: see "archiving"');
  if (!isArchiving(server)) throw new NotLookedAt('this standby does not archive: its primary does');
}

function whyOff({ inRecovery }: RunningServer, settings: ServerSettings): Finding {
  if (settings.archive_mode?.isPending) {
    return failed('archive_mode is off until the server is restarted', { hint: 'Restart it: the setting is changed.' });
  }
  if (/ --beside /.test(settings.restore_command?.value ?? '')) {
    return failed('archiving is still off after a restore: this is a copy that stands beside', {
      detail: 'nothing that is written here is archived',
      hint: `If it is the production server now: ${armingStatements.join(' ')} then restart it, and take a full base backup. If it stays a copy: --skip archiving.`,
    });
  }
  const level = settings.wal_level?.value === 'minimal' ? ' and wal_level = replica' : '';
  const hint = `Set archive_mode = on${level}, archive_command as "wal-t init" prints it, and restart the server.`;
  if (inRecovery)
    return warning('archive_mode is off: after its promotion this standby would archive nothing', { hint });
  return failed('archive_mode is off: nothing is archived', { hint });
}

function libraryInstead({ major }: RunningServer, library: string): [message: string, more: { hint: string }] {
  const hint = `Set archive_library = '', then "select pg_reload_conf()".`;
  return major === 15
    ? [`archive_library is "${library}": archive_command is not called`, { hint }]
    : [`archive_library is "${library}": WAL-T archives by archive_command, and PostgreSQL refuses both`, { hint }];
}

function judgeTimeout(server: RunningServer, settings: ServerSettings): Finding[] {
  if (server.inRecovery) return [];
  const timeoutMs = Number(settings.archive_timeout?.value ?? 0) * 1000;
  const hint = `Set archive_timeout = '60s' (an idle segment compresses to almost nothing), then "select pg_reload_conf()".`;
  if (timeoutMs === 0) {
    return [
      warning('archive_timeout is off: a lost host costs all since the last full segment, however old', { hint }),
    ];
  }
  if (timeoutMs <= checkThresholds.archiveTimeoutMs) return [];
  return [warning(`archive_timeout is ${formatDuration(timeoutMs)}: so much a lost host may cost`, { hint })];
}

/** A server that runs obeys none of it; one that is made a standby, or recovers, does. */
function leftFromRestore({ inRecovery }: RunningServer, settings: ServerSettings): Finding[] {
  if (inRecovery) return [];
  const left = targets.filter((name) => isSet(settings, name));
  const timeline = settings.recovery_target_timeline;
  if (timeline !== undefined && timeline.value !== 'latest' && !timeline.isPending)
    left.push('recovery_target_timeline');
  if (/ --(?:beside|end-at|timeline) /.test(settings.restore_command?.value ?? '')) left.push('restore_command');
  if (left.length === 0) return [];
  return [
    warning('settings of a restore are still there', {
      detail: left.map((name) => `${name} = '${settings[name]?.value}'`).join(', '),
      hint: `A later recovery of this data directory, or a standby on it, would obey them: ${left.map((name) => `alter system reset ${name};`).join(' ')} select pg_reload_conf(); the targets take effect at the next start.`,
    }),
  ];
}

function isSet(settings: ServerSettings, name: string): boolean {
  const setting = settings[name];
  return setting !== undefined && setting.value !== '' && !setting.isPending;
}
