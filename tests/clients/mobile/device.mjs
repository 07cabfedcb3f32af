// What both devices share: requests to the server, and one JSON command per line in, one JSON answer per line out.

import { mkdirSync } from "node:fs";
import { createInterface } from "node:readline";

const [base, folder] = process.argv.slice(2);
let token = process.env.DEVICE_TOKEN;

console.log = console.info = console.debug = console.error; // the libraries' messages: only answers go to stdout
mkdirSync(folder, { recursive: true });

export { folder };

/** GET, or POST where there is a body. Throws on a network error and on any status but 2xx. */
export async function request(path, body) {
  const response = await fetch(base + path, {
    method: body === undefined ? "GET" : "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(30_000),
  });
  if (!response.ok) throw new Error(`HTTP ${response.status}: ${await response.text()}`);
  return response.json();
}

/** Answer commands until "quit" or the end of stdin. A command that throws is answered with its error, and the next one is read. */
export async function serve(commands) {
  const all = { ...commands, token: (command) => void (token = command.token), quit: () => {} };
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    let answer;
    try {
      if (!Object.hasOwn(all, command.do)) throw new Error(`no such command: ${command.do}`);
      answer = { ok: true, ...(await all[command.do](command)) };
    } catch (error) {
      answer = { ok: false, error: reasonOf(error) };
    }
    await new Promise((written) => process.stdout.write(`${JSON.stringify(answer)}\n`, written));
    if (command.do === "quit") break;
  }
  process.exit(0);
}

/** Say in one line what went wrong. RxDB wraps what a handler threw, and what its schema refused. */
function reasonOf(error) {
  if (!error.rxdb) return [error.message, error.cause?.code].filter(Boolean).join(": ");
  const { errors, writeError } = error.parameters;
  return [`RxDB ${error.code}`, errors?.[0].message, JSON.stringify(writeError?.validationErrors)].filter(Boolean).join(": ");
}
