// Addresses of views: which view, of what, and how it is filtered. The whole state of a view is in its address.

export type View =
  | { name: "overview" } | { name: "sites" } | { name: "machines" } | { name: "images" } | { name: "orders" } | { name: "nodes" }
  | { name: "events" } | { name: "ledger" } | { name: "people" } | { name: "audit" } | { name: "account" } | { name: "keys" }
  | { name: "site"; site: string; part: SitePart }
  | { name: "machine"; site: string; id: string }
  | { name: "image"; version: string }
  | { name: "nothing" };

export const SITE_PARTS = ["machines", "nodes", "orders", "events", "wan", "admission"] as const;
export type SitePart = (typeof SITE_PARTS)[number];

const PLAIN = ["sites", "machines", "images", "orders", "nodes", "events", "ledger", "people", "audit", "account", "keys"] as const;

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Which view an address is of. */
export function viewOf(path: string): View {
  const parts = path.split("/").filter((part) => part !== "").map(decoded);
  const [first, second, third, fourth] = parts;
  if (first === undefined) return { name: "overview" };
  if (second === undefined) {
    const plain = PLAIN.find((name) => name === first);
    return plain === undefined ? { name: "nothing" } : { name: plain };
  }
  if (first === "sites") {
    if (third === "machines" && fourth !== undefined && parts.length === 4) return { name: "machine", site: second, id: fourth };
    const part = third === undefined ? "machines" : SITE_PARTS.find((name) => name === third);
    if (part !== undefined && parts.length <= 3) return { name: "site", site: second, part };
  }
  if (first === "images" && parts.length === 2) return { name: "image", version: second };
  return { name: "nothing" };
}

/** A site's page, or one part of it. */
export function sitePath(site: string, part: SitePart = "machines"): string {
  const base = `/sites/${encodeURIComponent(site)}`;
  return part === "machines" ? base : `${base}/${part}`;
}

/** A version's page. */
export function imagePath(version: string): string {
  return `/images/${encodeURIComponent(version)}`;
}

/** An address with other filters; what is empty is left out. */
export function withQuery(path: string, query: Readonly<Record<string, string | undefined>>): string {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value) asked.set(name, value);
  return asked.size > 0 ? `${path}?${asked}` : path;
}

/** The code of the link that HQ prints for the first account, from the part of an address behind `#`. */
export function setupCode(fragment: string): string | undefined {
  return /^#setup=([\w-]{1,128})$/.exec(fragment)?.[1];
}
