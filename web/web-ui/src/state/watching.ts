// How views stay true while they are looked at.

import { live, type Told } from "./live.svelte";

/** What HQ does not tell as it changes is looked at so often while somebody looks at it. */
const LOOK_MS = 10_000;

interface Wanted extends Told {
  /** Reads again what is shown. */
  again: () => void;
}

/** For an effect of a view: listens and looks until the view is gone. */
export function watching(wanted: Wanted): () => void {
  const leave = live.listen(wanted);
  const timer = setInterval(() => {
    if (!document.hidden) wanted.again();
  }, LOOK_MS);
  const shown = (): void => {
    if (!document.hidden) wanted.again();
  };
  document.addEventListener("visibilitychange", shown);
  return () => {
    leave();
    clearInterval(timer);
    document.removeEventListener("visibilitychange", shown);
  };
}
