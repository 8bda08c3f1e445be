// What HQ tells as it changes. One stream for the whole page; views say what they want to hear of.

import { SvelteMap } from "svelte/reactivity";
import { hqNow } from "../api/client";
import type { EventInfo, Machine, MachineState } from "../api/types";
import { measure, machineKey, type Sample } from "../core/install";
import { session } from "./session.svelte";

export interface Told {
  /** One that changed, as it is now. */
  machine?: (machine: Machine) => void;
  /** One that came to another state, or was not heard of before: other numbers are true now. */
  turned?: (machine: Machine) => void;
  event?: (event: EventInfo) => void;
  /** Something may have been missed: what was read before has to be read again. */
  again?: () => void;
}

/** Who comes back after a stream that could not be opened waits so long, then twice as long, and so on. */
const RETRY_MS = 2000;
const RETRY_MS_MAX = 30_000;
/** A store that is imaged tells hundreds of machines at once: they are shown together. */
const GATHER_MS = 100;
/** A browser has six connections to one HQ for all of its tabs: one that nobody looks at gives its own back. */
const HIDDEN_MS = 20_000;
/** Streams end every few minutes and come back within a second: that is not worth a word. */
const AWAY_AFTER_MS = 4000;

class Live {
  /** Since when nothing is heard, in milliseconds since 1970; 0 while all is well. */
  awaySince = $state(0);
  /** How fast machines are imaged, by machine. */
  readonly samples = new SvelteMap<string, Sample>();

  #told = new Set<Told>();
  #states = new Map<string, MachineState>();
  #gathered = new Map<string, Machine>();
  #gathering: ReturnType<typeof setTimeout> | undefined;
  #stream: EventSource | undefined;
  #isWanted = false;
  #wasReady = false;
  #retryMs = RETRY_MS;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #away: ReturnType<typeof setTimeout> | undefined;
  #hiding: ReturnType<typeof setTimeout> | undefined;

  /** Says what is told from now on; returns what ends it. */
  listen(told: Told): () => void {
    this.#told.add(told);
    return () => this.#told.delete(told);
  }

  constructor() {
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.#hiding);
      if (document.hidden) this.#hiding = setTimeout(() => this.#close(), HIDDEN_MS);
      else if (this.#isWanted) this.#open();
    });
  }

  start(): void {
    this.#isWanted = true;
    this.#open();
  }

  #open(): void {
    if (this.#stream !== undefined) return;
    clearTimeout(this.#timer);
    const stream = new EventSource("/api/v1/live");
    this.#stream = stream;
    stream.addEventListener("ready", () => this.#heard(true));
    stream.addEventListener("behind", () => this.#heard(true));
    stream.addEventListener("machine", (message) => {
      this.#heard(false);
      const machine = JSON.parse(String(message.data)) as Machine;
      this.#gathered.set(machineKey(machine), machine);
      this.#gathering ??= setTimeout(() => this.#tell(), GATHER_MS);
    });
    stream.addEventListener("event", (message) => {
      this.#heard(false);
      const event = JSON.parse(String(message.data)) as EventInfo;
      for (const told of this.#told) told.event?.(event);
    });
    stream.addEventListener("error", () => this.#lost(stream));
  }

  stop(): void {
    this.#isWanted = false;
    this.#close();
    this.#wasReady = false;
    this.#states.clear();
    this.samples.clear();
  }

  #close(): void {
    for (const timer of [this.#timer, this.#away, this.#gathering]) clearTimeout(timer);
    [this.#away, this.#gathering] = [undefined, undefined];
    this.#gathered.clear();
    this.#stream?.close();
    this.#stream = undefined;
    this.awaySince = 0;
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

  #tell(): void {
    this.#gathering = undefined;
    const machines = [...this.#gathered];
    this.#gathered.clear();
    for (const [key, machine] of machines) {
      if (machine.state === "imaging" && machine.install) this.samples.set(key, measure(this.samples.get(key), machine.install, Date.now()));
      else this.samples.delete(key);
      const isTurned = this.#states.get(key) !== machine.state;
      this.#states.set(key, machine.state);
      for (const told of this.#told) {
        told.machine?.(machine);
        if (isTurned) told.turned?.(machine);
      }
    }
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
        if (session.phase === "signed-in" && this.#isWanted) this.#open();
      });
    }, this.#retryMs);
    this.#retryMs = Math.min(RETRY_MS_MAX, this.#retryMs * 2);
  }
}

export const live = new Live();
