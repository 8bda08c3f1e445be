// What HQ's content security policy forbids, and what would make text of machines into more than text.

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";

const here = new URL(".", import.meta.url).pathname;
const files = readdirSync(here, { recursive: true, encoding: "utf8" }).filter((file) => /\.(svelte|ts)$/.test(file) && !file.endsWith("test.ts") && file !== "api/schema.d.ts");

it.each(files)("%s", (file) => {
  const text = readFileSync(join(here, file), "utf8");
  for (const forbidden of [/\{@html/, /\sstyle="/, /innerHTML/, /\bas any\b|: any\b/, /https?:\/\//]) expect(text).not.toMatch(forbidden);
  expect(text.split("\n").length).toBeLessThan(260);
});
