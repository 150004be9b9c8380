type Store = Pick<Storage, "getItem" | "setItem" | "removeItem" | "clear">;

/** What a tab keeps, and what all pages of the console keep in a browser. */
export const tabStorage = storage(() => window.sessionStorage);
export const siteStorage = storage(() => window.localStorage);

/**
 * storage returns what keeps texts. A browser that blocks all cookies lets no page have its storage: then they are kept as long as the page
 * is there. What there is no room for is not kept.
 */
function storage(own: () => Store): Store {
  try {
    const store = own();
    return {
      getItem: (key) => store.getItem(key),
      setItem: (key, value) => {
        try {
          store.setItem(key, value);
        } catch {
          store.removeItem(key);
        }
      },
      removeItem: (key) => store.removeItem(key),
      clear: () => store.clear(),
    };
  } catch {
    const items = new Map<string, string>();
    return {
      getItem: (key) => items.get(key) ?? null,
      setItem: (key, value) => void items.set(key, value),
      removeItem: (key) => void items.delete(key),
      clear: () => items.clear(),
    };
  }
}
