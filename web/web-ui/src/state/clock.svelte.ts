// One clock for everything that says how long ago something was. It goes by HQ's clock, and stands still while nobody looks.

import { hqNow } from "../api/client";

const TICK_MS = 1000;

class Clock {
  /** Milliseconds since 1970. */
  now = $state(hqNow());

  constructor() {
    setInterval(() => {
      if (!document.hidden) this.now = hqNow();
    }, TICK_MS);
    document.addEventListener("visibilitychange", () => (this.now = hqNow()));
  }
}

export const clock = new Clock();
