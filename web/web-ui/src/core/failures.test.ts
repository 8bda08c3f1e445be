import { expect, it } from "vitest";
import { byReason } from "./failures";
import { playedInstall, playedMachine } from "./played";

it("puts machines together that failed for one reason", () => {
  const failed = (id: string, message: string) => playedMachine(id, { state: "failed", install: playedInstall({ state: "failed", message }) });
  const groups = byReason([failed("1", "firmware trusts only the 2011 certificate"), failed("2", "the disk is full"), failed("3", "firmware trusts only the 2011 certificate "), failed("4", "")]);
  expect(groups.map((group) => [group.reason, group.machines.map((machine) => machine.id)])).toEqual([
    ["firmware trusts only the 2011 certificate", ["1", "3"]], ["the disk is full", ["2"]], ["No reason was told.", ["4"]],
  ]);
});
