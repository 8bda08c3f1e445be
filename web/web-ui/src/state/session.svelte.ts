// Who is signed in, and what they may do.

import { Refusal, call, get, onEnded, sentence } from "../api/client";
import type { Me, Right } from "../api/types";
import { setupCode } from "../core/address";

type Phase = "asking" | "setup" | "signed-out" | "ended" | "signed-in" | "away";

class Session {
  phase: Phase = $state("asking");
  me: Me | undefined = $state.raw();
  /** Why HQ could not be asked. */
  failure = $state("");
  /** From the link that HQ prints; it stays in memory alone. */
  code = $state("");

  /** Whether the role has a right. */
  may(right: Right): boolean {
    return this.me?.rights.includes(right) ?? false;
  }

  /** Whether it has it for all sites. */
  mayEverywhere(right: Right): boolean {
    return this.may(right) && this.me?.scope.all === true;
  }

  async begin(): Promise<void> {
    onEnded(() => this.#end());
    this.code = setupCode(location.hash) ?? "";
    // a code that was used up or seen is worth nothing, and has no business in a history
    if (location.hash !== "") history.replaceState(null, "", location.pathname + location.search);
    await this.ask();
  }

  /** Asks HQ who this is. */
  async ask(): Promise<void> {
    try {
      this.me = await get("/api/v1/me", {});
      this.phase = "signed-in";
    } catch (error) {
      await this.#unknown(error);
    }
  }

  async #unknown(error: unknown): Promise<void> {
    if (!(error instanceof Refusal) || error.status !== 401) {
      this.failure = sentence(error);
      if (this.me === undefined) this.phase = "away";
      return;
    }
    if (this.phase === "ended") return;
    try {
      const { needed } = await get("/api/v1/setup", {});
      this.phase = needed ? "setup" : "signed-out";
    } catch (failed) {
      this.failure = sentence(failed);
      this.phase = "away";
    }
  }

  async signOut(): Promise<void> {
    await call("delete", "/api/v1/session", {});
    this.me = undefined;
    this.phase = "signed-out";
  }

  #end(): void {
    if (this.phase !== "signed-in") return;
    this.me = undefined;
    this.phase = "ended";
  }
}

export const session = new Session();
