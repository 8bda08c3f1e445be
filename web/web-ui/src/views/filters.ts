// What several views filter by.

import type { Choice } from "../parts/Filters.svelte";
import type { MachineState, SiteUnknown } from "../api/types";

export const MACHINE_STATES: readonly MachineState[] = ["waiting", "ready", "imaging", "done", "failed"];

export const STATE_CHOICE: Choice = {
  name: "state", label: "State", options: [["", "Any state"], ...MACHINE_STATES.map((state) => [state, state] as const)],
};

export const UNKNOWN_WORDS: Readonly<Record<SiteUnknown, string>> = {
  wait: "wait for approval", admit: "are imaged", pin: "need the PIN", refuse: "are sent away",
};

/** One of a few words, or nothing: what stands in an address may be anything. */
export function oneOf<Word extends string>(words: readonly Word[], text: string | undefined): Word | undefined {
  return words.find((word) => word === text);
}
