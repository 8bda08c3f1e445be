// Something that a person has HQ do: what HQ refuses stays, in its own words, until it is dismissed or done.

import { sentence } from "../api/client";

export class Act {
  isDoing = $state(false);
  refusal = $state("");

  /** Does it; true when HQ did. */
  async run(what: () => Promise<void>): Promise<boolean> {
    if (this.isDoing) return false;
    this.isDoing = true;
    this.refusal = "";
    try {
      await what();
      return true;
    } catch (error) {
      this.refusal = sentence(error);
      return false;
    } finally {
      this.isDoing = false;
    }
  }

  dismiss(): void {
    this.refusal = "";
  }
}
