// The views that there are, and the key behind `g` that goes to each.

import type { Right } from "../api/types";

export interface Entry {
  name: string;
  title: string;
  path: string;
  key: string;
  /** Shown to whom has this right. */
  right: Right;
  /** And has it for all sites. */
  everywhere?: boolean;
}

export const MENU: readonly Entry[] = [
  { name: "overview", title: "Overview", path: "/", key: "o", right: "look" },
  { name: "sites", title: "Sites", path: "/sites", key: "s", right: "look" },
  { name: "machines", title: "Machines", path: "/machines", key: "m", right: "look" },
  { name: "images", title: "Images", path: "/images", key: "i", right: "look" },
  { name: "orders", title: "Orders", path: "/orders", key: "r", right: "look" },
  { name: "nodes", title: "Nodes", path: "/nodes", key: "n", right: "look" },
  { name: "events", title: "Events", path: "/events", key: "e", right: "look" },
  { name: "ledger", title: "WAN", path: "/ledger", key: "w", right: "look" },
  { name: "people", title: "People", path: "/people", key: "p", right: "administer", everywhere: true },
  { name: "audit", title: "Audit", path: "/audit", key: "a", right: "administer", everywhere: true },
  { name: "keys", title: "Keys", path: "/keys", key: "k", right: "administer", everywhere: true },
];

/** Not in the menu: it is behind one's name. */
export const ACCOUNT: Entry = { name: "account", title: "Account", path: "/account", key: "c", right: "own" };

/** Which entry a view belongs to. */
export function entryOf(view: string): string {
  const parents: Readonly<Record<string, string>> = { site: "sites", machine: "machines", image: "images" };
  return parents[view] ?? view;
}
