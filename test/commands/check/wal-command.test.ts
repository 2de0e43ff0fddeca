/** What is said of archive_command and restore_command; that what is called right ends as its call does is tried with sh itself. */
import { spawnSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { judgeWalCommand, type WalSetting } from '../../../src/commands/check/wal-command.ts';

/** "level: message" of each finding. */
function said(setting: WalSetting, text: string): string[] {
  return judgeWalCommand(setting, text).findings.map(({ level, message }) => `${level}: ${message}`);
}

describe('archive_command', () => {
  it.each([
    'wal-push %p %f',
    '/opt/wal-t/bin/wal-push %p',
    '/opt/wal-t/bin/wal-push "%p" "%f"',
    'WALT_CONFIG=/etc/x.env WALT_NODE=/usr/bin/node /opt/wal-t/bin/wal-push %p %f',
    'env WALT_CONFIG=/etc/x.env /opt/wal-t/bin/wal-push %p %f',
    '/opt/wal-t/bin/wal-t wal-push %p %f',
    '/opt/wal-t/bin/wal-t --config /etc/x.env wal-push %p %f',
    '/opt/wal-t/bin/wal-push --config=/etc/x.env %p %f',
    'exec nice -n 10 /opt/wal-t/bin/wal-push %p %f',
    "sh -c '/opt/wal-t/bin/wal-push %p %f'",
    'wal-push /var/lib/postgresql/pg_wal/%f',
    'wal-push %p %f;',
    'wal-push %p %f || false',
    'wal-push %p %f || exit 1',
    'wal-push %p %f; exit $?',
    'wal-push %p %f && cp %p /mnt/%f',
    'WALT_CONFIG=a wal-push %p %f && WALT_CONFIG=b wal-push %p %f',
    'umask 077; wal-push %p %f',
    'wal-push %p %f 2>&1',
    'wal-push %p %f 2>>/var/log/wal-t',
  ])('%j is right', (text) => {
    expect(said('archive_command', text)).toEqual([]);
  });

  it.each([
    ['wal-push %f %p', 'failed: archive_command has %p and %f the wrong way round'],
    ['wal-push %f', 'failed: archive_command does not give wal-push its %p'],
    ['wal-push', 'failed: archive_command does not give wal-push its %p'],
    ['wal-push %p %f %r', 'failed: archive_command gives wal-push other words than it takes: %p %f %r'],
    [
      'wal-push %p %f || true',
      'failed: archive_command hides how wal-push ends behind "|| true": PostgreSQL then recycles WAL that is archived nowhere',
    ],
    ['wal-push %p %f || logger lost', 'failed: archive_command hides how wal-push ends behind "|| logger lost"'],
    ['wal-push %p %f; true', 'failed: archive_command hides how wal-push ends behind "; true"'],
    ['wal-push %p %f | tee -a log', 'failed: archive_command hides how wal-push ends behind "| tee -a log"'],
    ['wal-push %p %f &', 'failed: archive_command hides how wal-push ends behind "&"'],
    ['wal-push %p %f && date || true', 'failed: archive_command hides how wal-push ends behind "|| true"'],
    ["sh -c 'wal-push %p %f || true'", 'failed: archive_command hides how wal-push ends behind "|| true"'],
    ['! wal-push %p %f', 'failed: archive_command turns the end of wal-push round'],
    [
      'test ! -f /mnt/%f && wal-push %p %f',
      'warning: archive_command calls wal-push only where "test ! -f /mnt/%f" succeeds',
    ],
    ['cp %p /mnt/%f || wal-push %p %f', 'failed: archive_command calls wal-push only where "cp %p /mnt/%f" fails'],
    ['timeout 60 wal-push %p %f', 'warning: wal-push is called through timeout'],
    ['sudo -u postgres wal-push %p %f', 'warning: wal-push is called through sudo'],
    ['wal-push %p %f 2>/dev/null', 'warning: archive_command throws away what wal-push says'],
    ['wal-push %p %f >/dev/null 2>&1', 'warning: archive_command throws away what wal-push says'],
    ['(wal-push %p %f)', 'warning: archive_command is more than a simple command'],
    ['if test -f x; then wal-push %p %f; fi', 'warning: archive_command is more than a simple command'],
    ["wal-push '%p", 'warning: archive_command is more than a simple command'],
    ['/bin/true', 'failed: archive_command archives nothing: it is "/bin/true"'],
    [':', 'failed: archive_command archives nothing: it is ":"'],
    ['exit 0', 'failed: archive_command archives nothing: it is "exit"'],
    ['false', 'failed: archive_command always fails: it is "false"'],
    ['exit 1', 'failed: archive_command always fails: it is "exit"'],
    ['wal-g wal-push %p', 'failed: archive_command is not of WAL-T: it runs "wal-g"'],
    [
      'envdir /etc/wal-e.d /usr/bin/wal-e wal-push %p',
      'failed: archive_command is not of WAL-T: it runs "/usr/bin/wal-e"',
    ],
    ['pgbackrest --stanza=main archive-push %p', 'failed: archive_command is not of WAL-T: it runs "pgbackrest"'],
    ['barman-wal-archive host main %p', 'failed: archive_command is not of WAL-T: it runs "barman-wal-archive"'],
    ['test ! -f /mnt/%f && cp %p /mnt/%f', 'failed: archive_command is not of WAL-T: it runs "cp"'],
    ['cp %p /mnt/%f || true', 'failed: archive_command is not of WAL-T: it runs "cp"'],
    [
      '/usr/local/bin/archive.sh %p %f',
      'warning: archive_command is not of WAL-T: it runs "/usr/local/bin/archive.sh"',
    ],
  ])('%j: %s', (text, finding) => {
    const all = said('archive_command', text);
    expect(all).toHaveLength(1);
    expect(all[0]).toContain(finding);
  });

  it('tells all that is wrong, the worst first', () => {
    expect(
      said('archive_command', 'timeout 60 wal-push %f %p 2>/dev/null || true').map((one) => one.split(':')[0]),
    ).toEqual(['failed', 'failed', 'warning', 'warning']);
  });

  it('tells what is called, and with which settings', () => {
    const calls = (text: string) => judgeWalCommand('archive_command', text).calls;
    expect(
      calls("WALT_CONFIG='/etc/a b' /o/wal-push %p %f && env WALT_REPO=file:///x wal-t --config=c wal-push %p"),
    ).toEqual([
      { program: '/o/wal-push', environment: { WALT_CONFIG: '/etc/a b' } },
      { program: 'wal-t', environment: { WALT_REPO: 'file:///x', WALT_CONFIG: 'c' } },
    ]);
    expect(calls('cp %p %f')).toEqual([]);
  });
});

describe('restore_command', () => {
  it.each([
    'wal-fetch %f %p',
    "WALT_CONFIG='/etc/x y' /opt/wal-t/bin/wal-fetch --beside --timeline 1 %f %p",
    'wal-fetch --timeline 1 --end-at 000000010000000000000007 "%f" "%p"',
    'cp /mnt/%f %p || wal-fetch %f %p',
    'wal-fetch %f %p;',
  ])('%j is right', (text) => {
    expect(said('restore_command', text)).toEqual([]);
  });

  it.each([
    ['wal-fetch %p %f', 'failed: restore_command has %f and %p the wrong way round'],
    ['wal-fetch %f', 'failed: restore_command does not give wal-fetch its %p'],
    ['wal-fetch %f %p || cp /mnt/%f %p', 'failed: restore_command hides how wal-fetch ends behind "|| cp /mnt/%f %p"'],
    ['wal-fetch %f %p || exit 1', 'failed: restore_command hides how wal-fetch ends'],
    ['wal-fetch %f %p && touch x', 'failed: restore_command hides how wal-fetch ends'],
    ['wal-fetch %f %p | cat', 'failed: restore_command hides how wal-fetch ends'],
    ['test -f go && wal-fetch %f %p', 'failed: restore_command calls wal-fetch only where "test -f go" succeeds'],
    ['timeout 60 wal-fetch %f %p', 'failed: restore_command is wrapped in timeout'],
    ['sudo wal-fetch %f %p', 'warning: wal-fetch is called through sudo'],
    ['pgbackrest archive-get %f %p', 'failed: restore_command is not of WAL-T: it runs "pgbackrest"'],
    ['cp /mnt/%f %p', 'failed: restore_command is not of WAL-T: it runs "cp"'],
  ])('%j: %s', (text, finding) => {
    const all = said('restore_command', text);
    expect(all).toHaveLength(1);
    expect(all[0]).toContain(finding);
  });
});

it('calls no line right in which sh loses the failure of wal-push', () => {
  const piece = fc.constantFrom('wal-push %p %f', 'true', 'false', ':', 'exit 0', 'exit 1', 'exit $?', 'echo x');
  const operator = fc.constantFrom(' && ', ' || ', ' ; ', ' | ', ' & ');
  const line = fc
    .array(fc.tuple(piece, operator), { minLength: 1, maxLength: 4 })
    .map((pairs) => pairs.map(([text, next], at) => (at === pairs.length - 1 ? text : `${text}${next}`)).join(''));
  const lines = [...new Set(fc.sample(line, { numRuns: 3000, seed: 7 }))].filter((text) => text.includes('wal-push'));
  const right = lines.filter((text) => said('archive_command', text).length === 0);
  expect(right.length).toBeGreaterThan(20);
  // each in a subshell, where the call fails with 4
  const script = right.map((text) => `( ${text.replaceAll('wal-push', 'called')} ) >/dev/null\necho $?\n`).join('');
  const { stdout } = spawnSync('sh', ['-c', `called() { return 4; }\n${script}`], { encoding: 'utf8' });
  const codes = stdout.trim().split('\n').map(Number);
  expect(codes).toHaveLength(right.length);
  for (const [index, text] of right.entries()) expect(codes[index], text).not.toBe(0);
});
