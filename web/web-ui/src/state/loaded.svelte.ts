// One thing that HQ is asked for, and asked again when it may have changed.

import { Refusal, isAway, sentence } from "../api/client";

/** What changes often is asked for so often at most. */
const AGAIN_MS = 1500;

export class Loaded<What> {
  value: What | undefined = $state.raw();
  failure = $state("");
  /** HQ does not know it, or does not show it to this account. */
  isUnknown = $state(false);

  #turn = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #readAt = 0;

  constructor(private readonly read: () => Promise<What>) {}

  async now(): Promise<void> {
    this.#turn += 1;
    const turn = this.#turn;
    this.#readAt = Date.now();
    try {
      const value = await this.read();
      if (turn !== this.#turn) return;
      this.value = value;
      this.failure = "";
      this.isUnknown = false;
    } catch (error) {
      // what is there can be read on, and the page says by itself that HQ is not heard
      if (turn !== this.#turn || (isAway(error) && this.value !== undefined)) return;
      this.isUnknown = error instanceof Refusal && error.status === 404;
      this.failure = sentence(error);
    }
  }

  /** Soon: many changes at once are read once. */
  again(): void {
    if (this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.now();
    }, Math.max(0, this.#readAt + AGAIN_MS - Date.now()));
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#turn += 1;
  }
}
