// A node that is played: it has a real key and certificate, enrols with a real token, and reports whatever a story needs.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { join } from "node:path";

const LETTERS = "abcdefghijklmnopqrstuvwxyz234567";

/** The secret of an enrolment token: its first 16 bytes. */
function secretOf(token) {
  let bits = "";
  for (const letter of token.replace("lamp1", "")) bits += LETTERS.indexOf(letter).toString(2).padStart(5, "0");
  const bytes = bits.match(/.{8}/g).map((byte) => parseInt(byte, 2));
  return Buffer.from(bytes.slice(0, 16)).toString("hex");
}

/** So many digits that are always the same for a text. */
export function digits(text, count) {
  return createHash("sha256").update(text).digest("hex").slice(0, count);
}

export async function playedNode({ url, folder }, token, name) {
  const file = join(folder, "played-" + randomBytes(6).toString("hex"));
  execFileSync("openssl", ["req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=node", "-days", "2", "-keyout", file + ".key", "-out", file + ".crt"],
    { stdio: "ignore" });
  const agent = new Agent({ keepAlive: true, rejectUnauthorized: false, key: readFileSync(file + ".key"), cert: readFileSync(file + ".crt") });
  const post = (path, body) => new Promise((done, fail) => {
    const asked = request(url + "/api/v1" + path, { method: "POST", agent, headers: { "content-type": "application/json" } }, (answer) => {
      let text = "";
      answer.on("data", (part) => (text += part));
      answer.on("end", () => (answer.statusCode < 300 ? done(text && JSON.parse(text)) : fail(new Error(`${path}: ${text}`))));
    });
    asked.on("error", fail);
    asked.end(JSON.stringify(body));
  });
  const facts = { uuid: digits(name + "uuid", 32), serial: null, macs: ["5254" + digits(name, 8)], model: "QEMU Standard PC" };
  await post("/enrol", { secret: secretOf(token), name, is_named: true, machine: digits(name, 32), facts });
  let number = 0;
  return {
    async report(...reports) {
      const numbered = reports.map((report) => ({ number: (number += 1), unix_seconds: Math.floor(Date.now() / 1000), report }));
      const { stored } = await post("/node/reports", { peer_port: 4433, reports: numbered });
      assert.equal(stored, number);
    },
    alive: () => post("/node/reports", { peer_port: 4433, reports: [] }),
    end: () => agent.destroy(),
  };
}
