// A session of the official TypeScript SDK's client:
// session.mjs <tools> <everything|memory|filesystem|limit|hello> <folder> -- <server command>
//
// The SDK gives the server only its own few environment variables, and those named below. Prints one
// line for each step, at the end how long closing took; ends with 1 when something is not as it should be.

import assert from "node:assert";
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const [tools, what, folder, , command, ...args] = process.argv.slice(2);
const require = createRequire(`${tools}/node/package.json`);
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");

const MIB = 1024 * 1024;

const call = async (client, name, args) => {
  const result = await client.callTool({ name, arguments: args });
  assert(!result.isError, JSON.stringify(result));
  return result.content.map((part) => part.text ?? "").join("");
};

const sessions = {
  async hello(client) {
    assert((await call(client, "echo", { text: "hello" })).includes("hello"));
  },
  async everything(client) {
    const message = "\u2028 x".repeat(300000);
    assert((await call(client, "echo", { message })).includes(message));
    console.log("prompts", (await client.listPrompts()).prompts.length);
    console.log("resources", (await client.listResources()).resources.length);
  },
  async memory(client) {
    const entities = [{ name: "km", entityType: "monitor", observations: ["is invisible"] }];
    await call(client, "create_entities", { entities });
    assert((await call(client, "read_graph", {})).includes("is invisible"));
  },
  async filesystem(client) {
    const path = `${folder}/text`;
    const content = "line\r\n\u0000\u{1f600}\n".repeat(100000);
    await call(client, "write_file", { path, content });
    assert.strictEqual(await call(client, "read_text_file", { path }), content);
  },
  // The SDK reads lines of 10 MiB and closes at longer ones: a file of 6 MiB comes twice in its answer.
  async limit(client) {
    const path = `${folder}/large`;
    writeFileSync(path, "x".repeat(6 * MIB));
    await assert.rejects(call(client, "read_text_file", { path }), (error) => {
      console.log("limit", error.message);
      return true;
    });
  },
};

const environment = Object.entries(process.env).filter(([name]) =>
  ["KM_HOME", "MEMORY_FILE_PATH"].includes(name),
);
const client = new Client({ name: "session", version: "0" });
const env = Object.fromEntries(environment);
await client.connect(new StdioClientTransport({ command, args, env }));
console.log("tools", (await client.listTools()).tools.length);
await sessions[what](client);
const begun = Date.now();
await client.close();
console.log("closed", Date.now() - begun);
