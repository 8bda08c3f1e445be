// What people do in the page, each act with what it changes at HQ.

import assert from "node:assert/strict";
import { test } from "node:test";
import { PASSWORD, signIn, signedIn, startHq, until } from "./hq.mjs";
import { digits, playedNode } from "./played.mjs";

const SITE = "/sites/0042%20Graz";

test("a site's rules: WAN, PIN, unknown machines, tags", async (t) => {
  const hq = await startHq(t);
  const { page, api, url } = hq;
  await api("POST", "/sites", { name: "0042 Graz" });
  await signedIn(hq, "ada", "operator", SITE + "/wan");
  await page.getByRole("button", { name: "Edit" }).click();
  const windows = page.getByLabel("Windows, one a line");
  await windows.fill("08:00-20:00=2");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByRole("alert").filter({ hasText: "is no window" }).waitFor();
  await windows.fill("08:00-20:00=2Mbit\n20:00-08:00=unlimited");
  await page.getByLabel("Site's clock, from UTC").fill("+01:00");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("UTC +01:00").waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByText("paused: nothing is fetched").waitFor();
  const rules = await api("GET", SITE + "/wan");
  assert.equal(rules.paused, true);
  assert.equal(rules.budget.utc_offset_minutes, 60);
  assert.deepEqual(rules.budget.windows.map((window) => window.bytes_per_second ?? null), [250_000, null]);

  await page.goto(url + SITE + "/admission");
  await page.getByLabel("A machine that the site does not know").selectOption("pin");
  await page.getByRole("button", { name: "Save the rule" }).click();
  await until("the rule", async () => (await api("GET", SITE)).unknown === "pin");
  await page.getByRole("textbox", { name: "Tags" }).fill("pilot north");
  await page.getByRole("button", { name: "Save the tags" }).click();
  await page.getByRole("link", { name: "pilot" }).waitFor();
  assert.deepEqual((await api("GET", SITE)).tags, ["north", "pilot"]);
  await page.getByLabel("Machines that it admits").fill("3");
  await page.getByRole("button", { name: "Make a new PIN" }).click();
  const pin = page.getByRole("region", { name: "The new PIN" });
  assert.match((await pin.textContent()).trim(), /^\d{8}$/);
  await page.getByText("It admits 3 machines").waitFor();
  await page.getByRole("button", { name: "Remove the PIN" }).click();
  await page.getByText("The site has no PIN.").waitFor();
});

test("a node is renamed, given a successor and revoked; a token is taken back", async (t) => {
  const hq = await startHq(t);
  const { page, api } = hq;
  await api("POST", "/sites", { name: "0042 Graz" });
  const { token } = await api("POST", SITE + "/tokens");
  const node = await playedNode(hq, token, "office");
  t.after(() => node.end());
  await node.alive();
  await signedIn(hq, "ada", "operator", SITE + "/nodes");
  await page.getByRole("button", { name: "Rename office" }).click();
  await page.getByLabel("Name", { exact: true }).fill("back office");
  await page.getByRole("dialog").getByRole("button", { name: "Rename" }).click();
  await page.getByRole("row", { name: /back office.*there/ }).waitFor();

  await page.getByRole("button", { name: "Replace back office" }).click();
  await page.getByRole("button", { name: "Make the token" }).click();
  await page.getByRole("region", { name: "Command that starts the node" }).waitFor();
  await page.keyboard.press("Escape");
  // that of the site itself is open as well
  const open = page.getByRole("table", { name: "Enrolment tokens" }).getByRole("row", { name: /open/ });
  await until("both", async () => (await open.count()) === 2, 20_000);
  await open.first().getByRole("button", { name: /^Revoke/ }).click();
  await page.getByRole("row", { name: /revoked/ }).first().waitFor();
  assert.deepEqual((await api("GET", SITE + "/tokens")).map((one) => one.state), ["revoked", "used", "open"]);

  await page.getByRole("button", { name: "Revoke back office" }).click();
  const revoke = page.getByRole("dialog").getByRole("button", { name: "Revoke" });
  assert.ok(await revoke.isDisabled());
  await page.getByLabel('Type "back office" to confirm').fill("back office");
  await revoke.click();
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal((await api("GET", "/nodes")).rows[0].revoked, true);
});

test("a machine is approved by the code on its screen, and a sign of it demoted", async (t) => {
  const hq = await startHq(t);
  const { page, api } = hq;
  await api("POST", "/sites", { name: "0042 Graz" });
  const { token } = await api("POST", SITE + "/tokens");
  const node = await playedNode(hq, token, "office");
  t.after(() => node.end());
  const machine = digits("machine", 32);
  const facts = { uuid: digits("uuid", 32), serial: "SN-1", macs: [], model: "till", code: "K7Q-2MX" };
  await node.report({ kind: "waiting", machine, facts });
  await signedIn(hq, "tess", "technician", `${SITE}/machines/${machine}`);
  const approval = page.getByRole("region", { name: "Approval" });
  await approval.getByText("K7Q-2MX", { exact: true }).waitFor();
  assert.equal(await page.getByRole("button", { name: "Demote a sign" }).count(), 0, "a technician changes no sign");
  await approval.getByRole("button", { name: /^Approve/ }).click();
  await approval.waitFor({ state: "detached" });
  assert.equal((await api("GET", "/machines")).rows[0].admission, "admitted");
  await api("PATCH", "/users/tess", { role: "operator" });
  await page.reload();
  await page.getByRole("button", { name: "Demote a sign" }).click();
  await page.getByRole("radio", { name: "Serial SN-1" }).check();
  await page.getByRole("button", { name: "It counts for nobody" }).click();
  await page.getByRole("dialog").waitFor({ state: "detached" });
  const said = (await api("GET", "/audit")).rows.map((row) => row.what).join("\n");
  assert.match(said, /serial/);
});

test("accounts are made, changed and ended; what was done is in the audit log", async (t) => {
  const hq = await startHq(t);
  const { page, api, url } = hq;
  await api("POST", "/sites", { name: "0042 Graz" });
  await signedIn(hq, "ada", "administrator", "/people?new=account");
  await page.getByLabel("Name", { exact: true }).fill("tess");
  await page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await page.getByLabel("Role").last().selectOption("technician");
  await page.getByLabel("All sites").uncheck();
  await page.getByLabel("Sites, one a line").fill("0042 Graz");
  await page.getByRole("button", { name: "Make it" }).click();
  await page.getByRole("row", { name: /tess.*technician.*0042 Graz/ }).waitFor();

  await page.getByRole("button", { name: "Change tess" }).click();
  const dialog = page.getByRole("dialog", { name: "Account tess" });
  await dialog.getByLabel("Role").selectOption("operator");
  await dialog.getByRole("button", { name: "Save role and scope" }).click();
  await dialog.getByText("Saved.").waitFor();
  await dialog.getByText("Make an access token").click();
  await dialog.getByLabel("What for").fill("a script");
  await dialog.getByRole("button", { name: "Make it" }).click();
  assert.match(await dialog.getByRole("region", { name: "Access token" }).textContent(), /^\s*lampa1/);
  await dialog.getByRole("button", { name: "Disable" }).click();
  await dialog.getByRole("button", { name: "Let it in again" }).click();
  await dialog.getByRole("button", { name: "Disable" }).waitFor();
  await dialog.getByText("Remove this account").click();
  await dialog.getByLabel('Type "tess" to confirm').fill("tess");
  await dialog.getByRole("button", { name: "Remove it" }).click();
  await dialog.waitFor({ state: "detached" });
  assert.deepEqual((await api("GET", "/users")).rows.map((user) => user.name), ["ada"]);

  await page.goto(url + "/audit");
  await page.getByText('account "tess" removed').first().waitFor();
  await page.getByRole("button", { name: "Check the chain" }).click();
  await page.getByText("The chain holds.").waitFor();

  // one's own password and tokens
  await page.goto(url + "/account");
  await page.getByLabel("Present password").fill("wrong, as it is");
  await page.getByLabel("New password").fill(PASSWORD + "!");
  await page.getByRole("button", { name: "Change it" }).click();
  await page.getByRole("alert").waitFor();
  await page.getByLabel("Present password").fill(PASSWORD);
  await page.getByRole("button", { name: "Change it" }).click();
  await page.getByText("Changed.").waitFor();
  await page.getByRole("button", { name: "Sign out" }).click();
  await signIn(page, "ada", PASSWORD + "!");
  await page.getByRole("heading", { name: "Overview" }).waitFor();
});
