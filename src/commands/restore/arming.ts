/** What is to be said to a restored server when it is open: what `restore` has set for its recovery would else count for ever. */
import { readConfigurationFiles } from '../../cluster/configuration-files.ts';
import { besideValues, recoveryNames } from './recovery-values.ts';

const turnedOff = Object.keys(besideValues);

/** Of a copy that stands beside the production server: turns on again what was turned off. To be followed by a restart, and a full base backup. */
export const armingStatements: readonly string[] = [...turnedOff, ...recoveryNames].map(reset);

/**
 * Of the server that was restored into this folder. `arming` as above, but what had been set in postgresql.auto.conf before is set again.
 * `recovery`: a standby that is copied from the server would end where this recovery ends, follow no promotion, and
 * not heed a primary_conninfo in postgresql.conf.
 */
export async function statementsFor(
  folder: string,
  settings: Readonly<Record<string, string>>,
): Promise<{ readonly arming: readonly string[]; readonly recovery: readonly string[] }> {
  const found = await readConfigurationFiles([`${folder}/postgresql.auto.conf`]);
  const before = (name: string) => found.filter((one) => one.name === name).at(-2)?.value;
  const arming = turnedOff
    .filter((name) => name in settings)
    .map((name) => {
      const value = before(name);
      return value === undefined || value === settings[name]
        ? reset(name)
        : `alter system set ${name} = ${quoted(value)};`;
    });
  const recovery = Object.keys(settings).filter((name) => !turnedOff.includes(name));
  return { arming, recovery: recovery.map(reset) };
}

function reset(name: string): string {
  return `alter system reset ${name};`;
}

function quoted(value: string): string {
  return `'${value.replaceAll("'", "''")}'`;
}
