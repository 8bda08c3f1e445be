import { describe, expect, it } from "vitest";
import { doing, fraction, machineName, machinePath, measure, secondsLeft } from "./install";
import { playedInstall, playedMachine } from "./played";

describe("how far a machine is", () => {
  it("says it in words and as a part", () => {
    expect(doing(playedInstall({ done_bytes: 619 }))).toBe("writing 61 %");
    expect(doing(playedInstall({ state: "rebooting" }))).toBe("rebooting");
    expect(fraction(playedInstall({ done_bytes: 500 }))).toBe(0.5);
    expect(fraction(playedInstall({ total_bytes: 0 }))).toBe(0);
    expect(fraction(playedInstall({ state: "done", done_bytes: 0 }))).toBe(1);
  });

  it("measures how fast it goes, and begins anew with each step", () => {
    const first = measure(undefined, playedInstall({ done_bytes: 100 }), 1000);
    expect(first.rate).toBe(0);
    const second = measure(first, playedInstall({ done_bytes: 300 }), 2000);
    expect(second.rate).toBe(200);
    // one slow second does not make all of it slow
    expect(measure(second, playedInstall({ done_bytes: 300 }), 3000).rate).toBeCloseTo(140);
    // two reports at once say nothing of speed
    expect(measure(second, playedInstall({ done_bytes: 400 }), 2050)).toBe(second);
    expect(measure(second, playedInstall({ state: "verifying", done_bytes: 10 }), 3000).rate).toBe(0);
  });

  it("knows what is left only while it goes on", () => {
    expect(secondsLeft(playedInstall({ done_bytes: 400 }), 100)).toBe(6);
    expect(secondsLeft(playedInstall({ done_bytes: 400 }), 0)).toBeUndefined();
    expect(secondsLeft(playedInstall({ state: "failed" }), 100)).toBeUndefined();
  });

  it("names machines and their pages", () => {
    expect(machineName(playedMachine("ab".repeat(16)))).toBe(`S-${"ab".repeat(16)}`);
    expect(machineName(playedMachine("ab".repeat(16), { facts: { macs: [], model: "", serial: " " } }))).toBe("abababababab");
    expect(machinePath(playedMachine("1", { site: "a/b c" }))).toBe("/sites/a%2Fb%20c/machines/1");
  });
});
