// Debian's Chromium, and how people come in.

import { createRequire } from "node:module";

const require = createRequire(process.env.LAMPLIGHTER_BROWSER_MODULES + "/");
const { chromium } = require("playwright-core");

export const PASSWORD = "lamps at dusk";
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

export function launch() {
  return chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
}

export async function signIn(page, name, password = PASSWORD) {
  await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
}
