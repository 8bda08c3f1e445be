import { describe, expect, it } from "vitest";
import { isKnownTime, relative, span, timeLeft } from "./time";

describe("moments and spans", () => {
  it.each([[0, "0 s"], [59.9, "59 s"], [60, "1 min"], [3599, "59 min"], [3600, "1 h"], [86_400 * 9, "9 d"]])(
    "%d s", (seconds, said) => expect(span(seconds)).toBe(said));

  it("says how long ago, and in how long", () => {
    expect(relative(10_000, 10_400)).toBe("now");
    expect(relative(10_000, 22_000)).toBe("12 s ago");
    expect(relative(7_210_000, 10_000)).toBe("in 2 h");
  });

  it.each([[12.4, "12 s"], [80, "1 min 20 s"], [7260, "2 h 1 min"], [-5, "0 s"]])("%d s are left", (seconds, said) => expect(timeLeft(seconds)).toBe(said));

  it("knows what is no moment", () => {
    expect(isKnownTime(Number.NaN)).toBe(false);
    expect(isKnownTime(0)).toBe(false);
  });
});
