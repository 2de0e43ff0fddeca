/** A storage of which a test changes some verbs. */
import type { Storage } from '../../src/storage/storage.ts';

export function around(storage: Storage, verbs: Partial<Storage>): Storage {
  return {
    url: storage.url,
    put: storage.put.bind(storage),
    get: storage.get.bind(storage),
    list: storage.list.bind(storage),
    delete: storage.delete.bind(storage),
    ...verbs,
  };
}
