// Kinds of events, in HQ's words.

export const EVENT_KINDS = ["trouble", "accused", "boot", "node", "holds"] as const;
