import { describe, expect, it } from "vitest";
import { appended, moved, replaced } from "./rows";

interface Row {
  id: string;
  change: number;
}
const row = (id: string, change = 1): Row => ({ id, change });
const key = (one: Row): string => one.id;
const isNewer = (one: Row, than: Row): boolean => one.change >= than.change;

describe("rows of lists", () => {
  it("are given once, also when one moved to a later page", () => {
    expect(appended([row("a"), row("b")], [row("b", 2), row("c")], key)).toEqual([row("a"), row("b", 2), row("c")]);
  });

  it("change at their place, and never back to what was", () => {
    const rows = [row("a"), row("b", 5)];
    expect(replaced(rows, row("b", 6), key, isNewer)).toEqual([row("a"), row("b", 6)]);
    expect(replaced(rows, row("b", 4), key, isNewer)).toBeUndefined();
    expect(replaced(rows, row("c"), key, isNewer)).toBeUndefined();
  });

  it("are walked through, and end at their ends", () => {
    const rows = [row("a"), row("b"), row("c")];
    expect(moved(rows, key, undefined, 1)).toBe("a");
    expect(moved(rows, key, undefined, -1)).toBe("c");
    expect(moved(rows, key, "a", 1)).toBe("b");
    expect(moved(rows, key, "c", 1)).toBe("c");
    expect(moved(rows, key, "gone", 1)).toBe("a");
    expect(moved([], key, undefined, 1)).toBeUndefined();
  });
});
