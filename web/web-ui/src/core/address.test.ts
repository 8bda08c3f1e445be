import { describe, expect, it } from "vitest";
import { setupCode, sitePath, viewOf, withQuery } from "./address";

describe("addresses of views", () => {
  it.each([
    ["/", { name: "overview" }], ["/sites", { name: "sites" }], ["/sites/", { name: "sites" }],
    ["/sites/0042%20Graz", { name: "site", site: "0042 Graz", part: "machines" }],
    ["/sites/a%2Fb/wan", { name: "site", site: "a/b", part: "wan" }],
    ["/sites/a/machines/12", { name: "machine", site: "a", id: "12" }],
    ["/images/till", { name: "image", version: "till" }],
    ["/sites/a/nothing", { name: "nothing" }], ["/machines/12", { name: "nothing" }], ["/nothing", { name: "nothing" }],
    ["/sites/%E0%A4%A", { name: "site", site: "%E0%A4%A", part: "machines" }],
  ])("%s", (path, view) => expect(viewOf(path)).toEqual(view));

  it("comes back from a site's path whatever its name is", () => {
    for (const site of ["0042 Graz", "a/b?c#d", "100 %", "Wien, Ring"]) {
      expect(viewOf(sitePath(site, "nodes"))).toEqual({ name: "site", site, part: "nodes" });
    }
  });

  it("leaves out what is empty", () => {
    expect(withQuery("/machines", { state: "failed", search: "", row: undefined })).toBe("/machines?state=failed");
    expect(withQuery("/machines", {})).toBe("/machines");
  });

  it("takes a code of the link that HQ prints, and nothing else", () => {
    expect(setupCode("#setup=djreuphzbh6reahi")).toBe("djreuphzbh6reahi");
    for (const fragment of ["", "#setup=", "#setup=<b>", "#other=1"]) expect(setupCode(fragment)).toBeUndefined();
  });
});
