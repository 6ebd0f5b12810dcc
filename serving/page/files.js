// Photos and results that survive a reload, in the browser's own database. A browser without one
// (a private window, for example) forgets them.
const NAME = "style-factory", STORE = "files";

let opened = null;
function database() {
  opened ??= new Promise((resolve, reject) => {
    const wanted = indexedDB.open(NAME, 1);
    wanted.onupgradeneeded = () => wanted.result.createObjectStore(STORE);
    wanted.onsuccess = () => resolve(wanted.result);
    wanted.onerror = () => reject(wanted.error);
  });
  return opened;
}

async function run(mode, act) {
  try {
    const store = (await database()).transaction(STORE, mode).objectStore(STORE);
    const wanted = act(store);
    return await new Promise((resolve, reject) => {
      wanted.onsuccess = () => resolve(wanted.result);
      wanted.onerror = () => reject(wanted.error);
    });
  } catch {
    return undefined;
  }
}

export const get = (key) => run("readonly", (store) => store.get(key));
export const put = (key, value) => run("readwrite", (store) => store.put(value, key));
export const remove = (key) => run("readwrite", (store) => store.delete(key));
export const keys = async () => (await run("readonly", (store) => store.getAllKeys())) ?? [];
