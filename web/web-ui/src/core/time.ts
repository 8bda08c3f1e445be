// Moments and spans as people say them.

/** Whether a number of milliseconds is a moment at all. */
export function isKnownTime(millis: number): boolean {
  return Number.isFinite(millis) && millis > 0;
}

const STEPS: readonly [seconds: number, unit: string][] = [[86_400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** `4 s`, `12 min`, `3 h`, `9 d`: the largest unit that fits. */
export function span(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const [size, unit] = STEPS.find(([step]) => whole >= step) ?? [1, "s"];
  return `${Math.floor(whole / size)} ${unit}`;
}

/** Time that is left: two units when it is long, so that it does not jump. */
export function timeLeft(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** How long ago a moment was, or how long it will take; both in milliseconds since 1970. */
export function relative(moment: number, now: number): string {
  const seconds = (now - moment) / 1000;
  if (Math.abs(seconds) < 1) return "now";
  return seconds >= 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;
}

const EXACT = new Intl.DateTimeFormat("en-GB", {
  year: "numeric", month: "short", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
});

/** The same moment as clocks and calendars have it. */
export function exact(moment: number): string {
  return EXACT.format(moment);
}
