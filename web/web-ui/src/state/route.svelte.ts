// Where the page is. Addresses are real ones: Back, reload and links work as everywhere.

import { viewOf, withQuery } from "../core/address";

/** Said in the history of a step that people took within a view. */
const STEP = { isStep: true };

class Route {
  path = $state(location.pathname);
  #search = $state(location.search);
  query = $derived(Object.fromEntries(new URLSearchParams(this.#search)) as Readonly<Record<string, string | undefined>>);
  view = $derived(viewOf(this.path));

  constructor() {
    addEventListener("popstate", () => this.#read());
    document.addEventListener("click", (event) => this.#follow(event));
  }

  #read(): void {
    this.path = location.pathname;
    this.#search = location.search;
  }

  /** Goes to another view. */
  go(address: string): void {
    if (address === location.pathname + location.search) return;
    const from = location.pathname;
    history.pushState(null, "", address);
    this.#read();
    if (from !== location.pathname) scrollTo(0, 0);
  }

  /** Says more about the present view. What people would not go back to takes no place in the history. */
  set(change: Readonly<Record<string, string | undefined>>, isStep = false): void {
    const address = withQuery(location.pathname, { ...this.query, ...change });
    if (address === location.pathname + location.search) return;
    if (isStep) history.pushState(STEP, "", address);
    else history.replaceState(history.state, "", address);
    this.#read();
  }

  /** A dialog is done: back to where it was opened, or, when a link led to it, the same address without it. */
  leave(change: Readonly<Record<string, undefined>>): void {
    if ((history.state as typeof STEP | null)?.isStep === true) history.back();
    else this.set(change);
  }

  /** Links of the page are followed without loading it again; all others as usual. */
  #follow(event: MouseEvent): void {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    if (link === null || link.origin !== location.origin || link.hasAttribute("download") || link.target !== "") return;
    if (link.pathname.startsWith("/api/")) return;
    if (link.pathname === location.pathname && link.hash !== "") return;
    event.preventDefault();
    this.go(link.pathname + link.search);
  }
}

export const route = new Route();
