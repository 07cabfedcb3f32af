// A localStorage on one file of lines, each the entries that were set in one go: a write of RxDB is on file as a whole or not at all.

import { appendFileSync, existsSync, openSync, closeSync, readFileSync, renameSync, writeFileSync } from "node:fs";

const LARGEST_FILE = 64 << 20;

export function openFileLocalStorage(file) {
  const items = new Map();
  let pending = null;
  let handle = null;
  let size = 0;

  function apply(entries) {
    for (const [key, value] of entries) value === null ? items.delete(key) : items.set(key, value);
  }

  function rewrite() {
    const whole = `${JSON.stringify([...items])}\n`;
    writeFileSync(`${file}~`, whole);
    renameSync(`${file}~`, file);
    if (handle !== null) closeSync(handle);
    handle = openSync(file, "a");
    size = whole.length;
  }

  function flush() {
    const line = `${JSON.stringify([...pending])}\n`;
    pending = null;
    appendFileSync(handle, line);
    size += line.length;
    if (size > LARGEST_FILE) rewrite();
  }

  function set(key, value) {
    if (pending === null) {
      pending = new Map();
      queueMicrotask(flush); // runs before the promise of RxDB's write resolves
    }
    pending.set(key, value);
    apply([[key, value]]);
  }

  if (existsSync(file)) {
    const lines = readFileSync(file, "utf8").split("\n");
    for (const line of lines.slice(0, -1)) apply(JSON.parse(line)); // the last is empty, or was cut off by a kill
  }
  rewrite();

  return {
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => set(key, value),
    removeItem: (key) => set(key, null),
  };
}
