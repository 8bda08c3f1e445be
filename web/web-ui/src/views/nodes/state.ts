// What is wrong with a node, or how it came, in one word.

import type { NodeInfo } from "../../api/types";

/** Of a node that a neighbour reports it is written every minute. */
const THERE_SECONDS = 120;

export interface NodeState {
  words: string;
  tone: "waiting" | "ready" | "proven" | "failed";
}

/** By HQ's clock, in milliseconds since 1970. */
export function stateOf(node: NodeInfo, now: number): NodeState {
  if (node.revoked) return { words: "revoked", tone: "failed" };
  if (node.replaced_by && (node.heard_again_unix_seconds ?? 0) > 0) return { words: "replaced, but heard", tone: "failed" };
  if (node.replaced_by) return { words: "replaced", tone: "waiting" };
  if (node.seen_unix_seconds === 0) return { words: "never heard", tone: "waiting" };
  return now / 1000 - node.seen_unix_seconds <= THERE_SECONDS ? { words: "there", tone: "proven" } : { words: "silent", tone: "waiting" };
}
