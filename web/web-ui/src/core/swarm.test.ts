import { describe, expect, it } from "vitest";
import { playedInstall, playedMachine, playedNode } from "./played";
import { SHOWN_MAX, described, sender, swarm } from "./swarm";

describe("a site as a swarm", () => {
  it("joins givers and receivers, the shares of each receiver together being all", () => {
    const nodes = [playedNode("aaaa1111"), playedNode("bbbb2222", { machine: "m1" })];
    const machines = [
      playedMachine("m1", { state: "done" }),
      playedMachine("m2", { install: playedInstall({ from: [["aaaa at 10.0.0.1", 300], ["bbbb at 10.0.0.2", 100]] }) }),
    ];
    const picture = swarm(nodes, machines, 0, 600);
    // the node on a machine is that machine
    expect(picture.points.map((point) => point.label)).toEqual(["HQ", "node aaaa1111", "S-m2", "S-m1"]);
    expect(picture.lines.map((line) => [line.from.label, line.to.label, line.share])).toEqual([["node aaaa1111", "S-m2", 0.75], ["S-m1", "S-m2", 0.25]]);
    expect(described(picture)).toEqual(["S-m2 had 75 % from node aaaa1111", "S-m2 had 25 % from S-m1"]);
  });

  it("shows a giver that nobody knows by its address", () => {
    const machines = [playedMachine("m1", { install: playedInstall({ from: [["cccc at 10.0.0.9", 1]] }) })];
    expect(swarm([], machines, 0, 600).points.some((point) => point.kind === "other" && point.label === "10.0.0.9")).toBe(true);
    expect(sender("peer 7")).toEqual({ key: "peer 7", address: "" });
  });

  it("knows an agent by the key that its machine told", () => {
    const machines = [
      playedMachine("m1", { install: playedInstall({ peer: "cccc3333", from: [["dddd4444 at 10.0.0.4", 1]] }) }),
      playedMachine("m2", { install: playedInstall({ from: [["cccc3333 at 10.0.0.9", 1], ["", 2]] }) }),
    ];
    const lines = swarm([], machines, 0, 600).lines;
    expect(lines.map((line) => [line.from.label, line.from.kind, line.to.label])).toEqual([
      ["10.0.0.4", "other", "S-m1"], ["S-m1", "machine", "S-m2"], ["", "other", "S-m2"],
    ]);
  });

  it("has one key for each line and point, whatever machines say", () => {
    const from: [string, number][] = [["HQ", 1], ["HQ", 2], ["m1 at x", 3], ["", 4]];
    const picture = swarm([playedNode("a")], [playedMachine("m1", { install: playedInstall({ from }) }), playedMachine("m2", { install: playedInstall({ from }) })], 1, 600);
    const keys = [...picture.points.map((point) => `${point.kind} ${point.key}`), ...picture.lines.map((line) => line.key)];
    expect(new Set(keys).size).toBe(keys.length);
  });

  it("keeps what came over the WAN apart", () => {
    const picture = swarm([playedNode("a")], [], 5000, 600);
    expect(picture.lines).toMatchObject([{ isWan: true }]);
    expect(described(picture)).toEqual([]);
  });

  it("has no node that is revoked or replaced, and says how many machines are not shown", () => {
    const nodes = [playedNode("a", { revoked: true }), playedNode("b", { replaced_by: "c" }), playedNode("d", { origin: "voucher" })];
    const machines = Array.from({ length: SHOWN_MAX + 6 }, (_, at) => playedMachine(`m${at}`));
    const picture = swarm(nodes, machines, 0, 600);
    expect(picture.points).toHaveLength(SHOWN_MAX + 1);
    expect(picture.left).toBe(6);
  });

  it("stays within its width, also where that is a phone's", () => {
    const machines = Array.from({ length: 20 }, (_, at) => playedMachine(`m${at}`));
    for (const width of [300, 640, 1300]) {
      const picture = swarm([playedNode("a")], machines, 1, width);
      for (const point of picture.points) expect(point.x > 0 && point.x < width && point.y < picture.height).toBe(true);
    }
  });
});
