// A device that synchronises with WatermelonDB. Arguments: the server's base URL, a folder for its files.

import { randomUUID } from "node:crypto";
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { folder, request, serve } from "./device.mjs";
import { ENTITIES } from "./entities.mjs";

const require = createRequire(import.meta.url); // the package is CommonJS and its paths are folders
const { Database, Model, appSchema, tableSchema } = require("@nozbe/watermelondb");
const { default: LokiJSAdapter } = require("@nozbe/watermelondb/adapters/lokijs");
const { synchronize } = require("@nozbe/watermelondb/sync");
const { setGenerator } = require("@nozbe/watermelondb/utils/common/randomId");

const PULLED_AT_ONCE = 500;
const COLUMN_TYPES = { moment: "number", array: "string", object: "string" };

setGenerator(randomUUID);

/** Loki's persistence: the whole database as one file, replaced in one go. */
const files = {
  loadDatabase: (name, done) => done(existsSync(name) ? readFileSync(name, "utf8") : null),
  saveDatabase(name, text, done) {
    writeFileSync(`${name}~`, text);
    renameSync(`${name}~`, name);
    done(null);
  },
  deleteDatabase(name, done) {
    rmSync(name, { force: true });
    done();
  },
};

/** All columns are optional but created_at and updated_at, of which the package asks that they are not. */
const column = ([name, type]) => ({ name, type: COLUMN_TYPES[type] ?? type, isOptional: type !== "moment" });

const tables = Object.entries(ENTITIES).map(([name, columns]) => tableSchema({ name, columns: Object.entries(columns).map(column) }));
const database = new Database({
  adapter: new LokiJSAdapter({
    dbName: join(folder, "watermelon.json"),
    schema: appSchema({ version: 1, tables }),
    useWebWorker: false,
    useIncrementalIndexedDB: false,
    extraLokiOptions: { adapter: files, autosave: false, verbose: false },
  }),
  modelClasses: Object.keys(ENTITIES).map((name) => class extends Model { static table = name }),
});

async function save() {
  await new Promise((resolve, reject) => {
    const loki = (db) => db.saveDatabase((error) => (error ? reject(error) : resolve()));
    database.adapter.unsafeExecute({ loki }).catch(reject);
  });
}

/** Make a change and have it on file before it is answered. */
async function write(change) {
  await database.write(change);
  await save();
}

function fill(record, fields) {
  for (const [name, value] of Object.entries(fields)) {
    record._setRaw(name, typeof value === "object" && value !== null ? JSON.stringify(value) : value);
  }
}

function plain(table, raw) {
  const inJson = ([name, value]) => value !== null && ["array", "object"].includes(ENTITIES[table][name]);
  return Object.fromEntries(Object.entries(raw).map((entry) => [entry[0], inJson(entry) ? JSON.parse(entry[1]) : entry[1]]));
}

/** Ask for pages until there is no more, up to where the first one began; of two words on a row the later holds. */
async function pullChanges({ lastPulledAt }) {
  const merged = Object.fromEntries(Object.keys(ENTITIES).map((table) => [table, { rows: new Map(), deleted: new Set() }]));
  const query = new URLSearchParams({ last_pulled_at: lastPulledAt ?? 0, limit: PULLED_AT_ONCE, tables: Object.keys(ENTITIES) });
  let page;
  do {
    page = await request(`/v1/sync/watermelon?${query}`);
    for (const [table, { created, updated, deleted }] of Object.entries(page.changes)) {
      for (const raw of [...created, ...updated]) {
        merged[table].rows.set(raw.id, raw);
        merged[table].deleted.delete(raw.id);
      }
      for (const id of deleted) {
        merged[table].rows.delete(id);
        merged[table].deleted.add(id);
      }
    }
    if (!query.has("until")) query.set("until", page.until);
    query.set("last_pulled_at", page.timestamp);
  } while (page.has_more);
  const changes = {};
  for (const [table, { rows, deleted }] of Object.entries(merged)) {
    changes[table] = { created: [], updated: [...rows.values()], deleted: [...deleted] };
  }
  return { changes, timestamp: page.timestamp };
}

/** A row with unsent edits keeps the version they were made on, 0 for a new row, unless the server has all of them: an answer was lost. */
function conflictResolver(table, local, remote, merged) {
  const arrived = local._changed.split(",").every((column) => local[column] === remote[column]);
  return local._status === "synced" || arrived ? merged : { ...merged, version: local.version };
}

/** Pull, push, and pull what the server made of it. */
async function sync() {
  let rejected = {};
  async function pushChanges({ changes, lastPulledAt }) {
    const answer = await request(`/v1/sync/watermelon?last_pulled_at=${lastPulledAt}`, changes);
    rejected = answer.experimentalRejectedIds ?? {};
    return answer;
  }
  const pull = { database, pullChanges, conflictResolver, sendCreatedAsUpdated: true };
  try {
    await synchronize({ ...pull, pushChanges });
    await synchronize(pull);
  } finally {
    await save();
  }
  return { pushed_conflicts: Object.values(rejected).flat().length, rejected };
}

const find = ({ collection, id }) => database.get(collection).find(id);

await serve({
  create: ({ collection, doc: { id, ...fields } }) =>
    write(() =>
      database.get(collection).create((record) => {
        if (id) record._raw.id = id;
        fill(record, { version: 0, ...fields });
      }),
    ),
  patch: (command) => write(async () => (await find(command)).update((record) => fill(record, command.fields))),
  delete: (command) => write(async () => (await find(command)).markAsDeleted()),
  all: async ({ collection }) => ({ rows: (await database.get(collection).query().fetch()).map((record) => plain(collection, record._raw)) }),
  sync,
});
