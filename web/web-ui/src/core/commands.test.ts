import { expect, it } from "vitest";
import { nodeCommand, quoted, voucherCommand } from "./commands";

it("quotes what a shell would take for more than a word", () => {
  expect(quoted("north")).toBe("north");
  expect(quoted("0042 Graz")).toBe("'0042 Graz'");
  expect(quoted("it's $(reboot)")).toBe(`'it'\\''s $(reboot)'`);
  expect(voucherCommand("0042 Graz")).toContain("--site '0042 Graz' ");
  expect(nodeCommand("lamp1abc")).toBe("lamplighter node --dir /var/lib/lamplighter --enrol lamp1abc");
});
