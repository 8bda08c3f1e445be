// Scopes of accounts, as people say them.

import type { SiteScope } from "../api/types";

/** `all sites`, `0042 Graz, tag pilot`. */
export function scopeWords(scope: SiteScope): string {
  if (scope.all) return "all sites";
  const parts = [...(scope.sites ?? []), ...(scope.tags ?? []).map((tag) => `tag ${tag}`)];
  return parts.length === 0 ? "no site" : parts.join(", ");
}

/** Names, one a line: they may have commas and spaces in them. */
export function lines(text: string): string[] {
  return text.split("\n").map((line) => line.trim()).filter((line) => line !== "");
}

/** Words between spaces or commas. */
export function words(text: string): string[] {
  return text.split(/[\s,]+/).filter((word) => word !== "");
}
