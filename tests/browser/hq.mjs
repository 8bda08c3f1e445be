// What the stories share: a real HQ for each test, Chromium from Debian, and how people come in.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before } from "node:test";
import { PASSWORD, launch, signIn } from "./chromium.mjs";

export { PASSWORD, signIn };

const require = createRequire(process.env.LAMPLIGHTER_BROWSER_MODULES + "/");
const { AxeBuilder } = require("@axe-core/playwright");

/** Anything is waited for no longer than this. */
export const PATIENCE_MS = 60_000;

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

export function program(name) {
  return join(process.env.LAMPLIGHTER_BIN_DIR, name);
}

/** HQ, which prints where it is and how the first account is made. */
async function run(folder, listen, environment) {
  const process = spawn(program("lamplighter"), ["hq", "--dir", join(folder, "hq"), "--listen", listen], { stdio: ["ignore", "pipe", "inherit"], env: environment });
  const ended = new Promise((done) => process.once("exit", done));
  const lines = createInterface({ input: process.stdout })[Symbol.asyncIterator]();
  const url = (await lines.next()).value.split(" as ")[1];
  const setup = (await lines.next()).value;
  const stop = async () => {
    process.kill();
    await ended;
  };
  return { url, setup, stop };
}

/** HQ with a browser that looks at it. */
export async function startHq(t, options = {}) {
  const folder = mkdtempSync(join(tmpdir(), "lamplighter-page-"));
  const environment = { ...process.env, LAMPLIGHTER_LOG: "error", XDG_RUNTIME_DIR: folder };
  let hq = await run(folder, "127.0.0.1:0", environment);
  const wrong = [];
  let isAway = false;
  let context;
  t.after(async () => {
    // the page goes first: one whose HQ ends says so in its console
    await context?.close();
    await hq.stop();
    rmSync(folder, { recursive: true, maxRetries: 5 });
    assert.deepEqual(wrong, [], "the page made mistakes");
  });
  const { url } = hq;
  const setup = hq.setup.replace("make the first account: ", "");
  assert.ok(setup.startsWith(url + "/#setup="), setup);
  const tokenFile = join(folder, "hq", "admin-token");
  const token = readFileSync(tokenFile, "utf8").split("\n")[0];
  context = await browser.newContext({ ignoreHTTPSErrors: true, reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("console", (message) => {
    // refusals are in the console too, and are no mistake of the page
    if (message.type() === "error" && !message.text().includes("status of 4") && !isAway) wrong.push(message.text());
  });
  const api = async (method, path, data) => {
    const answer = await context.request.fetch(url + "/api/v1" + path, { method, data, headers: { authorization: "Bearer " + token } });
    assert.ok(answer.ok(), `${method} ${path}: ${await answer.text()}`);
    return answer.status() === 204 ? null : answer.json();
  };
  const command = (...words) => {
    const done = spawnSync(program("lamplighter"), [...words, "--hq", url, "--token-file", tokenFile], { encoding: "utf8", env: environment });
    assert.equal(done.status, 0, `${words.join(" ")}: ${done.stdout}${done.stderr}`);
    return done.stdout;
  };
  /** HQ ends; what it gives starts it again where it was. */
  const stop = async () => {
    isAway = true;
    await hq.stop();
    return async () => {
      hq = await run(folder, new URL(url).host, environment);
      isAway = false;
    };
  };
  return { url, setup, context, page, api, command, stop, folder, environment };
}

/** A program that does not outlive its test; its output is kept. */
export function start(t, name, words, environment = process.env) {
  const child = spawn(program(name), words, { stdio: ["ignore", "pipe", "pipe"], env: environment });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (said += text));
  const ended = new Promise((done) => child.once("exit", (code) => done(code)));
  const stop = async () => {
    child.kill();
    await ended;
  };
  t.after(stop);
  return { stop, ended, said: () => said };
}

/** Looks again and again until something is so. */
export async function until(what, look, patience = PATIENCE_MS) {
  const end = Date.now() + patience;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < end, `not within ${patience / 1000} s: ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** An account with a role, signed in, and its page open. */
export async function signedIn({ url, page, api }, name, role, path = "/", scope = { all: true }) {
  await api("POST", "/users", { name, role, scope, password: PASSWORD });
  await page.goto(url + path);
  await signIn(page, name);
  await page.getByRole("banner").waitFor();
}

/** What axe finds of WCAG 2.2, levels A and AA, and of good habits. */
export async function accessible(page, where = "") {
  const found = await new AxeBuilder({ page }).analyze();
  const said = found.violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((node) => node.target).join(" | ")}`);
  assert.deepEqual(said, [], where);
}

/** The page does not scroll sideways. */
export async function fits(page, where = "") {
  const [width, shown] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(width <= shown, `${where} is ${width} px wide on a screen of ${shown}`);
}

/** Kept in the folder that LAMPLIGHTER_SCREENSHOTS names. Those of docs/screenshots are some of them. */
export async function picture(page, name) {
  const folder = process.env.LAMPLIGHTER_SCREENSHOTS;
  if (folder) await page.screenshot({ path: join(folder, name + ".png") });
}
