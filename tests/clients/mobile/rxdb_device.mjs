// A device that synchronises with RxDB. Arguments: the server's base URL, a folder for its files.

import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { createRxDatabase } from "rxdb";
import { replicateRxCollection } from "rxdb/plugins/replication";
import { getRxStorageLocalstorage } from "rxdb/plugins/storage-localstorage";
import { wrappedValidateAjvStorage } from "rxdb/plugins/validate-ajv";
import { folder, request, serve } from "./device.mjs";
import { ENTITIES } from "./entities.mjs";
import { openFileLocalStorage } from "./file_local_storage.mjs";

const PULLED_AT_ONCE = 500;
const PUSHED_AT_ONCE = 100;

const database = await createRxDatabase({
  name: "device",
  multiInstance: false,
  storage: wrappedValidateAjvStorage({
    storage: getRxStorageLocalstorage({ localStorage: openFileLocalStorage(join(folder, "rxdb.jsonl")) }),
  }),
});
await database.addCollections(Object.fromEntries(Object.entries(ENTITIES).map(([name, columns]) => [name, { schema: schemaOf(columns) }])));

function schemaOf(columns) {
  const properties = { id: { type: "string", maxLength: 100 }, version: { type: "integer" } };
  for (const [name, type] of Object.entries(columns)) properties[name] ??= type === "moment" ? {} : { type: [type, "null"] };
  return { version: 0, type: "object", primaryKey: "id", properties, required: ["id"] };
}

/** Drop what the schema does not declare: the server's documents gain members over time. */
function declared(name, document) {
  return Object.fromEntries(Object.entries(document).filter(([key]) => key === "id" || key === "_deleted" || key in ENTITIES[name]));
}

function replicationOf(collection) {
  const path = `/v1/sync/rxdb/${collection.name}`;
  return replicateRxCollection({
    collection,
    replicationIdentifier: "server",
    live: true, // one that is not live cannot be cancelled while the server is out of reach
    waitForLeadership: false,
    pull: {
      batchSize: PULLED_AT_ONCE,
      async handler(checkpoint, limit) {
        const pulled = await request(`${path}/pull?since=${checkpoint?.cursor ?? 0}&limit=${limit}`);
        return { ...pulled, documents: pulled.documents.map((document) => declared(collection.name, document)) };
      },
    },
    push: {
      batchSize: PUSHED_AT_ONCE,
      async handler(rows) {
        const masters = await request(`${path}/push`, rows);
        return masters.map((document) => declared(collection.name, document));
      },
    },
  });
}

/** Pull and push one collection until it is in sync, or the first error. Returns how many documents were sent, and the ids in conflict. */
async function replicate(collection) {
  const state = replicationOf(collection);
  const conflicts = [];
  let sent = 0;
  state.sent$.subscribe(() => (sent += 1));
  state.conflict$.subscribe(({ input }) => conflicts.push(input.realMasterState.id));
  try {
    await Promise.race([state.awaitInSync(), new Promise((_, reject) => state.error$.subscribe(reject))]);
  } finally {
    await state.cancel();
  }
  return { sent, conflicts };
}

/** Run all collections until a round has nothing more to send: the round after a push pulls what the server made of it. */
async function sync() {
  const rejected = {};
  let conflicts = 0;
  for (let sent = Infinity; sent > 0; ) {
    sent = 0;
    for (const collection of Object.values(database.collections)) {
      const round = await replicate(collection);
      sent += round.sent;
      conflicts += round.conflicts.length;
      if (round.conflicts.length) rejected[collection.name] = [...(rejected[collection.name] ?? []), ...round.conflicts];
    }
  }
  return { pushed_conflicts: conflicts, rejected };
}

async function find({ collection, id }) {
  return database[collection].findOne(id).exec(true);
}

await serve({
  create: async ({ collection, doc }) => void (await database[collection].insert({ id: randomUUID(), version: 0, ...doc })),
  patch: async (command) => void (await (await find(command)).incrementalPatch(command.fields)),
  delete: async (command) => void (await (await find(command)).remove()),
  all: async ({ collection }) => ({ rows: (await database[collection].find().exec()).map((document) => document.toJSON()) }),
  sync,
});
