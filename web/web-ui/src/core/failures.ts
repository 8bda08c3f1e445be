// Failed machines, put together by what failed.

import type { Machine } from "../api/types";

export interface Failure {
  reason: string;
  machines: Machine[];
}

/** One for each reason, those with most machines first; of one reason, as they came. */
export function byReason(machines: readonly Machine[]): Failure[] {
  const groups = new Map<string, Machine[]>();
  for (const machine of machines) {
    const reason = machine.install?.message.trim() || "No reason was told.";
    groups.set(reason, [...(groups.get(reason) ?? []), machine]);
  }
  return [...groups].map(([reason, group]) => ({ reason, machines: group })).sort((a, b) => b.machines.length - a.machines.length);
}
