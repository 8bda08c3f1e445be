import { describe, expect, it } from "vitest";
import { holdsAt, limit, offsetText, parseOffset, parseWindow, parseWindows, windowText } from "./wan";

describe("what a WAN may carry", () => {
  it.each(["08:00-20:00=2Mbit", "20:00-08:00=unlimited", "00:00-06:30=none", "12:00-13:00=512kbit"])("%s reads as it was written", (text) => {
    const window = parseWindow(text);
    expect(typeof window === "string" ? window : windowText(window).toLowerCase()).toBe(text.toLowerCase());
  });

  it("takes 24:00 for the end of a day", () => expect(parseWindow("20:00-24:00=1Mbit")).toEqual({ from_minute: 1200, to_minute: 0, bytes_per_second: 125_000 }));

  it.each(["", "8-20=2Mbit", "08:00-20:00", "08:00-20:00=2", "08:60-20:00=2Mbit", "08:00-25:00=2Mbit", "08:00-20:00=-2Mbit"])(
    "%s is none", (text) => expect(parseWindow(text)).toContain("is no window"));

  it("stops at the first that is none", () => {
    expect(parseWindows("08:00-20:00=2Mbit\n\n20:00-08:00=unlimited")).toHaveLength(2);
    expect(parseWindows("08:00-20:00=2Mbit, x")).toContain('"x"');
  });

  it("knows which window holds, over midnight too", () => {
    const windows = parseWindows("08:00-20:00=2Mbit,22:00-06:00=none");
    if (typeof windows === "string") throw new Error(windows);
    expect(holdsAt(windows, 8 * 60)).toBe(0);
    expect(holdsAt(windows, 20 * 60)).toBeUndefined();
    expect(holdsAt(windows, 23 * 60)).toBe(1);
    expect(holdsAt(windows, 5 * 60)).toBe(1);
  });

  it("says limits and clocks", () => {
    expect(limit(null)).toBe("unlimited");
    expect(limit(0)).toBe("none");
    expect(limit(250_000)).toBe("2 Mbit/s");
    expect(limit(16_000)).toBe("128 kbit/s");
    expect(offsetText(-210)).toBe("-03:30");
    for (const minutes of [0, 60, -210, 840]) expect(parseOffset(offsetText(minutes))).toBe(minutes);
    for (const text of ["1", "15:00", "01:60", "x"]) expect(parseOffset(text)).toBeUndefined();
  });
});
