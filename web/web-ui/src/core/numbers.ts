// Numbers with their units.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"] as const;
const WHOLE = new Intl.NumberFormat("en-GB");

/** `0 B`, `950 B`, `1.32 MB`, `61.0 GB`: three digits that count, units of a thousand, as networks and disks are sold. */
export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  // 999.6 would be said as 1000
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit] ?? "B"}`;
}

/** `94.2 MB/s`. */
export function rate(bytesPerSecond: number): string {
  return `${bytes(bytesPerSecond)}/s`;
}

/** `2 800`: thousands apart. */
export function whole(count: number): string {
  return WHOLE.format(count).replaceAll(",", "\u202f");
}

/** HQ counts a list's rows up to 10,000; one more means "more". */
export function total(count: number): string {
  return count > 10_000 ? `more than ${whole(10_000)}` : whole(count);
}

/** `61 %`; 100 only when it is all. */
export function percent(part: number, all: number): string {
  if (all <= 0) return "0 %";
  const value = Math.floor((part / all) * 100);
  return `${Math.min(100, Math.max(0, value))} %`;
}

/** `1 machine`, `3 machines`. */
export function counted(count: number, one: string, many = `${one}s`): string {
  return `${whole(count)} ${count === 1 ? one : many}`;
}

/** The first digits of a key, digest or identity. */
export function short(hex: string): string {
  return hex.slice(0, 12);
}

/** `52:54:00:12:34:56`. */
export function mac(hex: string): string {
  return hex.match(/../g)?.join(":") ?? hex;
}

/** `4c4c4544-0042-3510-8051-b4c04f4d3132`. */
export function uuid(hex: string): string {
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
