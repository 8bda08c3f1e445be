import { describe, expect, it } from "vitest";
import { bytes, counted, mac, percent, rate, total, uuid, whole } from "./numbers";

describe("numbers with their units", () => {
  it.each([
    [0, "0 B"], [950, "950 B"], [999, "999 B"], [1000, "1.00 kB"], [1_320_000, "1.32 MB"], [999_499, "999 kB"], [999_600, "1.00 MB"],
    [61_000_000_000, "61.0 GB"], [2.9e12, "2.90 TB"], [123_456_789, "123 MB"],
  ])("%d bytes", (count, said) => expect(bytes(count)).toBe(said));

  it("says a rate", () => expect(rate(94_200_000)).toBe("94.2 MB/s"));

  it.each([[0, 0, "0 %"], [1, 3, "33 %"], [999, 1000, "99 %"], [1000, 1000, "100 %"], [5, 4, "100 %"]])(
    "%d of %d", (part, all, said) => expect(percent(part, all)).toBe(said));

  it("keeps thousands apart", () => {
    expect(whole(2800)).toBe("2\u202f800");
    expect(counted(1, "machine")).toBe("1 machine");
    expect(counted(0, "machine")).toBe("0 machines");
    expect(counted(2, "document waits", "documents wait")).toBe("2 documents wait");
    expect(total(10_001)).toBe("more than 10\u202f000");
  });

  it("writes addresses and identities as people know them", () => {
    expect(mac("525400123456")).toBe("52:54:00:12:34:56");
    expect(uuid("4c4c4544004235108051b4c04f4d3132")).toBe("4c4c4544-0042-3510-8051-b4c04f4d3132");
  });
});
