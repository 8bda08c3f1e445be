// How far a machine is, in words and as a part of the whole.

import type { InstallReport, Machine } from "../api/types";
import { percent, short } from "./numbers";

/** What an agent goes through, in order. */
export const STEPS = ["preflight", "writing", "verifying", "customising", "committing", "rebooting", "done"] as const;

/** Bytes of the present step that are done, 0 to 1. */
export function fraction(report: InstallReport): number {
  if (report.state === "done" || report.state === "rebooting") return 1;
  return report.total_bytes > 0 ? Math.min(1, report.done_bytes / report.total_bytes) : 0;
}

/** `writing 61 %`, `rebooting`. */
export function doing(report: InstallReport): string {
  const counts = report.total_bytes > 0 && (report.state === "writing" || report.state === "verifying");
  return counts ? `${report.state} ${percent(report.done_bytes, report.total_bytes)}` : report.state;
}

/** What people call a machine: its serial, else its model and the beginning of its identity. */
export function machineName(machine: Machine): string {
  const serial = machine.facts.serial?.trim();
  return serial ? serial : short(machine.id);
}

/** A machine is one of its site: two sites may have seen the same computer. */
export function machineKey(machine: Machine): string {
  return `${machine.site}/${machine.id}`;
}

/** A machine's own page. */
export function machinePath(machine: Machine): string {
  return `/sites/${encodeURIComponent(machine.site)}/machines/${machine.id}`;
}

/** Two reports of one machine, and the moments at which they were heard, in milliseconds. */
export interface Sample {
  bytes: number;
  state: string;
  at: number;
  /** Bytes per second, smoothed; 0 before the second report. */
  rate: number;
}

/** How much a new measurement counts beside what was known. */
const NEWEST_WEIGHT = 0.3;

/** How fast an install goes on, by its reports so far. */
export function measure(before: Sample | undefined, report: InstallReport, at: number): Sample {
  const now = { bytes: report.done_bytes, state: report.state, at };
  if (before === undefined || before.state !== report.state || report.done_bytes < before.bytes) return { ...now, rate: 0 };
  const seconds = (at - before.at) / 1000;
  if (seconds < 0.2) return before;
  const measured = (report.done_bytes - before.bytes) / seconds;
  const rate = before.rate === 0 ? measured : before.rate + NEWEST_WEIGHT * (measured - before.rate);
  return { ...now, rate };
}

/** Seconds until the present step is done; undefined while nobody can know. */
export function secondsLeft(report: InstallReport, rate: number): number | undefined {
  if (rate <= 0 || report.total_bytes <= 0 || report.state === "done" || report.state === "failed") return undefined;
  return Math.max(0, report.total_bytes - report.done_bytes) / rate;
}
