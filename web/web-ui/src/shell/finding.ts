// What the palette finds.

import { get } from "../api/client";
import { imagePath, sitePath } from "../core/address";
import { machineName, machinePath } from "../core/install";
import { short } from "../core/numbers";

export interface Found {
  kind: "view" | "do" | "site" | "machine" | "image";
  words: string;
  note?: string;
  path: string;
}

/** Of each kind. */
const FOUND_MAX = 6;

/** Each word that was typed begins a word or is within one. */
export function fitting(words: string, typed: string): boolean {
  const inside = words.toLowerCase();
  return typed.toLowerCase().split(/\s+/).every((part) => inside.includes(part));
}

/** Sites, machines and images that HQ finds by these words. */
export async function find(search: string): Promise<Found[]> {
  const query = { search, limit: FOUND_MAX };
  const [sites, machines, images] = await Promise.all([
    get("/api/v1/sites", { query }), get("/api/v1/machines", { query }), get("/api/v1/images", { query }),
  ]);
  return [
    ...sites.rows.map((site): Found => ({ kind: "site", words: site.name, path: sitePath(site.name) })),
    ...machines.rows.map((machine): Found => ({ kind: "machine", words: machineName(machine), note: `${machine.site}, ${machine.state}`, path: machinePath(machine) })),
    ...images.rows.map((image): Found => ({ kind: "image", words: image.name, note: `release ${image.release}, ${short(image.version)}`, path: imagePath(image.version) })),
  ];
}
