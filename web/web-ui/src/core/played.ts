// Machines and nodes for tests.

import type { InstallReport, Machine, NodeInfo } from "../api/types";

export function playedInstall(change: Partial<InstallReport> = {}): InstallReport {
  return { state: "writing", version: null, order: 1, done_bytes: 0, total_bytes: 1000, received_bytes: 0, from: [], message: "", ...change };
}

export function playedMachine(id: string, change: Partial<Machine> = {}): Machine {
  return {
    id, site: "north", admission: "admitted", state: "imaging", facts: { macs: [], model: "till", serial: `S-${id}` }, install: null, completed: [],
    seen_unix_seconds: 1, change: 1, ...change,
  };
}

export function playedNode(key: string, change: Partial<NodeInfo> = {}): NodeInfo {
  return { key, site: "north", name: `node ${key}`, machine: `machine of ${key}`, origin: "enrolled", revoked: false, seen_unix_seconds: 1, address: null, ...change };
}
