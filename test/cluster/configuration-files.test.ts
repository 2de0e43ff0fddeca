/** Configuration files are read as PostgreSQL reads them: against the server itself, which shows what it made of its files. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { readConfigurationFiles, readServerConfiguration } from '../../src/cluster/configuration-files.ts';
import { findForeignSettings } from '../../src/cluster/foreign-settings.ts';
import { readRecoveryTarget } from '../../src/cluster/recovery-target.ts';
import { giveAway } from '../support/account.ts';
import { temporaryFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';

/** Files below a folder; each belongs to PostgreSQL's account. */
function write(folder: string, files: Readonly<Record<string, string>>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(folder, name, '..'), { recursive: true });
    writeFileSync(join(folder, name), text);
    for (const path of [join(folder, name, '..'), join(folder, name)]) giveAway(path);
  }
}

const included = {
  'conf.d/10-first.conf': "recovery_target_name = 'of the first'\nwork_mem=3MB\n",
  'conf.d/20-second.conf': "include '../deeper/more.conf'\nlog_line_prefix ''\n",
  'conf.d/.hidden.conf': "cluster_name = 'hidden'\n",
  'conf.d/not.config': "cluster_name = 'not'\n",
  'deeper/more.conf':
    "Recovery_Target_Name = 'it''s \\'one\\''  # a comment\nrecovery_target_inclusive=off\ninclude_if_exists 'none.conf'\n",
};

describe('configuration files', () => {
  it('are read as the server reads them, included ones in their place', async () => {
    const server = PostgresServer.create({ major: 17 });
    onTestFinished(() => server.remove());
    write(server.dataDirectory, included);
    server.configure({ work_mem: '2MB', include_dir: 'conf.d' });
    server.configure({ wal_keep_size: '32MB' });
    server.words.push('-c', 'recovery_target_action=shutdown', '--cluster-name=given');
    await server.start();
    const files = await readConfigurationFiles([join(server.dataDirectory, 'postgresql.conf')]);
    const shown = await server.query(
      `select sourcefile, lower(name), setting from pg_file_settings where applied and lower(name) in ('recovery_target_name', 'work_mem', 'wal_keep_size', 'recovery_target_inclusive') order by 2`,
    );
    const last = (name: string) => files.findLast((one) => one.name === name);
    expect(shown).toHaveLength(4);
    for (const [file, name = '', setting] of shown) expect(last(name)).toEqual({ file, name, value: setting });
    const inForce = await readServerConfiguration(server.dataDirectory);
    for (const name of ['cluster_name', 'recovery_target_action', 'recovery_target_name']) {
      expect(inForce.get(name)).toBe(await server.value(`show ${name}`));
    }
    expect(await readRecoveryTarget(server.dataDirectory)).toEqual({ beforeLsn: undefined });
  });

  it('are found where the command line says', async () => {
    const folder = temporaryFolder();
    const data = join(folder, 'data');
    write(folder, {
      'etc/main.conf': "include_dir = 'more'\n",
      'etc/more/a.conf': "recovery_target_lsn = '0/2A0'\nrecovery_target_inclusive = OFF\n",
      'data/postgresql.conf': '',
      'data/postmaster.opts': `/usr/bin/postgres "-D" "${data}" "-c" "config_file=${folder}/etc/main.conf"\n`,
    });
    expect(await readRecoveryTarget(data)).toEqual({ beforeLsn: 0x2a0n });
  });

  it('may include each other for ever', async () => {
    const folder = temporaryFolder();
    write(folder, { 'postgresql.conf': "include 'postgresql.conf'\nwork_mem = 1MB\n" });
    expect((await readConfigurationFiles([join(folder, 'postgresql.conf')])).length).toBeLessThan(30);
  });
});

it('names settings of included files that lead away, those in force alone, and files that are to be included and are not there', async () => {
  const folder = temporaryFolder();
  write(folder, {
    'postgresql.conf':
      "include_dir 'conf.d'\ninclude '/nowhere/site.conf'\ninclude_if_exists '/nowhere/else.conf'\nssl_ca_file = '/nowhere/ca'\n",
    'conf.d/a.conf': "archive_command = 'other-tool %p'\nhba_file = '/etc/other/pg_hba.conf'\n",
    'postgresql.auto.conf': "ssl_ca_file = ''\n",
  });
  const found = await findForeignSettings(folder, ['postgresql.conf', 'postgresql.auto.conf'], { takeOver: true });
  expect(found.map(({ file, name }) => `${file}: ${name}`)).toEqual([
    'conf.d/a.conf: archive_command',
    'conf.d/a.conf: hba_file',
    'postgresql.conf: include',
  ]);
});
