// Windows of a WAN budget as people write them: `08:00-20:00=2Mbit`.

import type { WanWindow } from "../api/types";

const DAY_MINUTES = 24 * 60;
const BITS = { kbit: 1_000, mbit: 1_000_000, gbit: 1_000_000_000 } as const;

function clock(text: string): number | undefined {
  const found = /^(\d{1,2}):(\d{2})$/.exec(text.trim());
  if (found === null) return undefined;
  const [hours, minutes] = [Number(found[1]), Number(found[2])];
  const minute = hours * 60 + minutes;
  // 24:00 is how people write the end of a day
  return minutes < 60 && minute <= DAY_MINUTES ? minute % DAY_MINUTES : undefined;
}

/** Bytes per second; null is without a limit. */
function bytesPerSecond(text: string): number | null | undefined {
  const word = text.trim().toLowerCase();
  if (word === "unlimited") return null;
  if (word === "none") return 0;
  const found = /^(\d{1,9})\s*(kbit|mbit|gbit)$/.exec(word);
  const unit = found?.[2];
  if (unit !== "kbit" && unit !== "mbit" && unit !== "gbit") return undefined;
  return Math.floor((Number(found?.[1]) * BITS[unit]) / 8);
}

/** One window, or why it is none. */
export function parseWindow(text: string): WanWindow | string {
  const [span, limit] = text.split("=");
  const [from, to] = (span ?? "").split("-");
  const [first, last, bytes] = [clock(from ?? ""), clock(to ?? ""), bytesPerSecond(limit ?? "")];
  if (first === undefined || last === undefined || bytes === undefined) {
    return `"${text.trim()}" is no window: write it as 08:00-20:00=2Mbit, with kbit, Mbit, Gbit, none or unlimited`;
  }
  return { from_minute: first, to_minute: last, bytes_per_second: bytes };
}

/** All windows of a text, one a line; or what is wrong with the first that is none. */
export function parseWindows(text: string): WanWindow[] | string {
  const windows: WanWindow[] = [];
  for (const line of text.split(/[\n,]/).filter((part) => part.trim() !== "")) {
    const window = parseWindow(line);
    if (typeof window === "string") return window;
    windows.push(window);
  }
  return windows;
}

function time(minute: number): string {
  return `${String(Math.floor(minute / 60)).padStart(2, "0")}:${String(minute % 60).padStart(2, "0")}`;
}

/** `2 Mbit/s`, `none`, `unlimited`. */
export function limit(bytes: number | null | undefined): string {
  if (bytes === null || bytes === undefined) return "unlimited";
  if (bytes === 0) return "none";
  const bits = bytes * 8;
  return bits % 1_000_000 === 0 ? `${bits / 1_000_000} Mbit/s` : `${Math.floor(bits / 1000)} kbit/s`;
}

/** As it is typed. */
export function windowText(window: WanWindow): string {
  const bits = limit(window.bytes_per_second).replace("/s", "").replace(" ", "");
  return `${time(window.from_minute)}-${time(window.to_minute)}=${bits}`;
}

/** `+01:00`. */
export function offsetText(minutes: number): string {
  const size = Math.abs(minutes);
  return `${minutes < 0 ? "-" : "+"}${time(size)}`;
}

/** Minutes of `+01:00`, or undefined. */
export function parseOffset(text: string): number | undefined {
  const found = /^([+-]?)(\d{1,2}):(\d{2})$/.exec(text.trim());
  if (found === null) return undefined;
  const minutes = Number(found[2]) * 60 + Number(found[3]);
  if (minutes > 14 * 60 || Number(found[3]) > 59) return undefined;
  return found[1] === "-" ? -minutes : minutes;
}

/** The window that holds at a minute of the site's day, and its place; undefined when none covers it. */
export function holdsAt(windows: readonly WanWindow[], minute: number): number | undefined {
  const at = windows.findIndex((w) =>
    w.from_minute < w.to_minute ? minute >= w.from_minute && minute < w.to_minute : minute >= w.from_minute || minute < w.to_minute);
  return at < 0 ? undefined : at;
}
