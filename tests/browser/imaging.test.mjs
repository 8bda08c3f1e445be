// An administrator's first hour, with the real programs: from an empty HQ to machines that are imaged, all of it in the page.

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { closeSync, existsSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { diskImage } from "./chain.mjs";
import { accessible, picture, signedIn, start, startHq, until } from "./hq.mjs";

/** A port that was free a moment ago. */
function freePort() {
  return new Promise((done) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

test("a site is made, its node comes, an image is ordered, machines are imaged and watched", async (t) => {
  const hq = await startHq(t, { viewport: { width: 1360, height: 860 } });
  const { url, page, command, folder, environment } = hq;
  await signedIn(hq, "ada", "administrator");
  // the page says what comes first, and sees when it is done
  const begin = page.getByRole("region", { name: "What comes next" });
  await begin.getByText("lamplighter image import").waitFor();
  const image = diskImage(folder, "till", 48);
  command("image", "import", image, "--name", "till");
  await begin.getByRole("heading", { name: "Publish an image done" }).waitFor();

  await begin.getByRole("link", { name: "Make a site" }).click();
  await page.getByLabel("Name", { exact: true }).fill("0042 Graz");
  await page.getByRole("combobox", { name: "Unknown machines" }).last().selectOption("admit");
  await page.getByRole("button", { name: "Make it" }).click();
  await page.getByText("Shown this once").waitFor();
  await accessible(page);
  const words = (await page.getByRole("region", { name: "Command that starts the node" }).textContent()).trim().split(" ");
  assert.deepEqual(words.slice(0, 2), ["lamplighter", "node"]);
  // the store's line is slow enough for people to watch
  await hq.api("PATCH", "/sites/0042%20Graz/wan", { windows: [{ from_minute: 0, to_minute: 0, bytes_per_second: 2_000_000 }] });

  await page.getByRole("link", { name: "Go to the site" }).click();
  await page.getByRole("link", { name: "Nodes", exact: true }).last().click();
  await page.getByText("No node yet").waitFor();
  // the command as it was shown, in a folder of the test's
  const dir = join(folder, "node");
  mkdirSync(dir);
  writeFileSync(join(dir, "node.toml"), "uploads_give_way = false\n");
  const port = await freePort();
  const token = words[words.indexOf("--enrol") + 1];
  const node = start(t, "lamplighter", ["node", "--dir", dir, "--enrol", token, "--boot", "off", "--no-beacons", "--name", "back-office",
    "--listen", `127.0.0.1:${port}`, "--slab-bytes", String(128 << 20)], environment);
  await page.getByRole("row", { name: /back-office.*there/ }).waitFor({ timeout: 20_000 });

  await page.getByRole("button", { name: "New order" }).click();
  await page.getByRole("button", { name: "Order", exact: true }).click();
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.getByRole("link", { name: "Machines", exact: true }).last().click();

  const disk = (name) => join(folder, name + ".raw");
  const agent = (name) => start(t, "lamplighter-agent", ["image", "--to", disk(name), "--node", `127.0.0.1:${port}`, "--json", join(folder, name + ".json")], environment);
  closeSync(openSync(disk("small"), "w"));
  const file = openSync(disk("small"), "r+");
  ftruncateSync(file, 1 << 20);
  closeSync(file);
  const agents = ["one", "two"].map(agent);
  const small = agent("small");
  // nobody touches the page: it moves by itself
  const table = page.getByRole("table", { name: "machines" });
  await table.getByText(/writing \d+ %/).first().waitFor({ timeout: 30_000 });
  const bar = table.getByRole("progressbar").first();
  const before = Number(await bar.getAttribute("aria-valuenow"));
  await until("the bar moves", async () => Number(await bar.getAttribute("aria-valuenow").catch(() => 100)) > before);
  await picture(page, "imaging");
  await page.getByRole("link", { name: "Overview", exact: true }).click();
  await page.getByRole("region", { name: "Imaging now" }).getByRole("progressbar").first().waitFor({ timeout: 30_000 });
  await picture(page, "overview-imaging");
  await page.getByRole("region", { name: "Imaging now" }).getByRole("link").first().click();
  await page.getByRole("heading", { name: "Who it is" }).waitFor();
  await page.getByText(/MB\/s/).first().waitFor({ timeout: 30_000 });
  // who feeds it is told while it is fed
  await page.getByText("Who fed it").waitFor({ timeout: 30_000 });
  assert.equal(await page.getByText("Done.").count(), 0, "only when it was over");
  await picture(page, "machine-imaging");
  await page.getByText("Done.").waitFor({ timeout: 60_000 });

  for (const [at, one] of agents.entries()) assert.equal(await one.ended, 0, one.said());
  for (const name of ["one", "two"]) {
    assert.ok(existsSync(disk(name)));
    assert.ok(readFileSync(disk(name)).equals(readFileSync(image)), `the disk of ${name} is the image`);
  }
  // the one whose disk is too small says so in a sentence, and where people look first
  assert.notEqual(await small.ended, 0);
  await page.goto(url);
  const needs = page.getByRole("region", { name: "Needs you" });
  await needs.getByText("failed").first().waitFor();
  const reason = await needs.locator("li p").first().textContent();
  assert.match(reason, /\d/, reason);
  await page.goto(url + "/machines?state=failed");
  await page.getByRole("row", { name: /failed/ }).waitFor();
  // fetched once for all of them
  await page.goto(url + "/ledger");
  const times = Number.parseFloat(await page.getByRole("table", { name: "lines" }).locator("td.times").first().textContent());
  assert.ok(times >= 0.99 && times < 1.05, `fetched ${times} times`);
  await page.goto(url + "/sites/0042%20Graz");
  await page.getByRole("img", { name: /came over the WAN/ }).waitFor();
  await accessible(page);
  await picture(page, "site-after");
  assert.equal(node.said().includes("panicked"), false);
});
