// Keys that work everywhere but where somebody types.

import { keys } from "../state/keys.svelte";
import { route } from "../state/route.svelte";
import { session } from "../state/session.svelte";
import { ACCOUNT, MENU } from "./menu";

/** A letter behind `g` is waited for so long. */
const SECOND_KEY_MS = 1500;
let goPressedAt = -Infinity;

function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target instanceof HTMLInputElement) return !["checkbox", "radio", "button"].includes(target.type);
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement || target.isContentEditable;
}

function go(letter: string): boolean {
  const entry = [...MENU, ACCOUNT].find((known) => known.key === letter);
  if (entry === undefined || !(entry.everywhere ? session.mayEverywhere(entry.right) : session.may(entry.right))) return false;
  route.go(entry.path);
  return true;
}

function act(key: string): boolean {
  switch (key) {
    case "j":
      keys.list?.move(1);
      return keys.list !== undefined;
    case "k":
      keys.list?.move(-1);
      return keys.list !== undefined;
    case "x":
      keys.list?.toggle();
      return keys.list !== undefined;
    case "/": {
      const field = document.querySelector<HTMLInputElement>("[data-search]");
      field?.focus();
      field?.select();
      return field !== null;
    }
    case "?":
      keys.isHelpOpen = true;
      return true;
    case "g":
      goPressedAt = performance.now();
      return true;
    default:
      return false;
  }
}

/** A key was pressed anywhere on the page. */
export function pressed(event: KeyboardEvent): void {
  const isPalette = event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.altKey;
  if (isPalette) {
    event.preventDefault();
    if (document.querySelector("dialog[open]") === null) keys.isPaletteOpen = true;
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (isTyping(event.target) || document.querySelector("dialog[open]") !== null) return;
  const isSecond = performance.now() - goPressedAt < SECOND_KEY_MS;
  if (isSecond) goPressedAt = -Infinity;
  if (isSecond ? go(event.key) : act(event.key)) event.preventDefault();
}
