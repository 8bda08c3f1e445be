// What HQ tells as it changes. One stream for the whole page; views say what they want to hear of.

import { hqNow } from "../api/client";
import type { EventInfo, Machine } from "../api/types";
import { measure, machineKey, type Sample } from "../core/install";
import { session } from "./session.svelte";

interface Told {
  machine?: (machine: Machine) => void;
  event?: (event: EventInfo) => void;
  /** Something may have been missed: what was read before has to be read again. */
  again?: () => void;
}

/** Who comes back after a stream that could not be opened waits so long, then twice as long, and so on. */
const RETRY_MS = 2000;
const RETRY_MS_MAX = 30_000;
/** Streams end every few minutes and come back within a second: that is not worth a word. */
const AWAY_AFTER_MS = 4000;

class Live {
  /** Since when nothing is heard, in milliseconds since 1970; 0 while all is well. */
  awaySince = $state(0);
  /** How fast machines are imaged, by machine. */
  samples = $state.raw(new Map<string, Sample>());

  #told = new Set<Told>();
  #stream: EventSource | undefined;
  #wasReady = false;
  #retryMs = RETRY_MS;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #away: ReturnType<typeof setTimeout> | undefined;

  /** Says what is told from now on; returns what ends it. */
  listen(told: Told): () => void {
    this.#told.add(told);
    return () => this.#told.delete(told);
  }

  start(): void {
    if (this.#stream !== undefined) return;
    const stream = new EventSource("/api/v1/live");
    this.#stream = stream;
    stream.addEventListener("ready", () => this.#heard(true));
    stream.addEventListener("behind", () => this.#heard(true));
    stream.addEventListener("machine", (message) => {
      this.#heard(false);
      this.#machine(JSON.parse(String(message.data)) as Machine);
    });
    stream.addEventListener("event", (message) => {
      this.#heard(false);
      const event = JSON.parse(String(message.data)) as EventInfo;
      for (const told of this.#told) told.event?.(event);
    });
    stream.addEventListener("error", () => this.#lost(stream));
  }

  stop(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#away);
    this.#stream?.close();
    this.#stream = undefined;
    this.#away = undefined;
    this.#wasReady = false;
    this.awaySince = 0;
    this.samples = new Map();
  }

  /** How fast a machine is imaged, in bytes per second; 0 while that is not known. */
  rateOf(machine: Machine): number {
    return this.samples.get(machineKey(machine))?.rate ?? 0;
  }

  #heard(isReady: boolean): void {
    this.#retryMs = RETRY_MS;
    clearTimeout(this.#away);
    this.#away = undefined;
    this.awaySince = 0;
    if (!isReady) return;
    // a stream ends every few minutes so that rights are looked at again: here too
    if (this.#wasReady) void session.ask();
    this.#wasReady = true;
    for (const told of this.#told) told.again?.();
  }

  #machine(machine: Machine): void {
    const key = machineKey(machine);
    const samples = new Map(this.samples);
    if (machine.state === "imaging" && machine.install) samples.set(key, measure(samples.get(key), machine.install, Date.now()));
    else samples.delete(key);
    this.samples = samples;
    for (const told of this.#told) told.machine?.(machine);
  }

  #lost(stream: EventSource): void {
    if (this.#away === undefined) {
      const since = hqNow();
      this.#away = setTimeout(() => (this.awaySince = since), AWAY_AFTER_MS);
    }
    // the browser comes back by itself, unless HQ refused
    if (stream.readyState !== EventSource.CLOSED || stream !== this.#stream) return;
    this.#stream = undefined;
    this.#timer = setTimeout(() => {
      // a session that is over is told to whoever asks, and not to streams
      void session.ask().then(() => {
        if (session.phase === "signed-in") this.start();
      });
    }, this.#retryMs);
    this.#retryMs = Math.min(RETRY_MS_MAX, this.#retryMs * 2);
  }
}

export const live = new Live();
