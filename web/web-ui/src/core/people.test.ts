import { expect, it } from "vitest";
import { lines, scopeWords, words } from "./people";

it("says scopes as people do", () => {
  expect(scopeWords({ all: true, sites: [], tags: [] })).toBe("all sites");
  expect(scopeWords({ all: false, sites: ["0042 Graz"], tags: ["pilot"] })).toBe("0042 Graz, tag pilot");
  expect(scopeWords({})).toBe("no site");
});

it("reads names by lines, and tags by words", () => {
  expect(lines(" 0042 Graz \n\nWien, Ring\n")).toEqual(["0042 Graz", "Wien, Ring"]);
  expect(words("north, pilot  till")).toEqual(["north", "pilot", "till"]);
});
