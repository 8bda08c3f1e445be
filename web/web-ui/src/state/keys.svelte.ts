// What keys do. The list in which rows are chosen says so while it is shown.

/** A list whose rows are walked through. */
export interface Walked {
  move(by: number): void;
  toggle(): void;
}

class Keys {
  #lists: Walked[] = [];
  isPaletteOpen = $state(false);
  isHelpOpen = $state(false);

  /** The list that came last is the one that keys move in; returns what takes it away. */
  walk(list: Walked): () => void {
    this.#lists.push(list);
    return () => (this.#lists = this.#lists.filter((known) => known !== list));
  }

  get list(): Walked | undefined {
    return this.#lists.at(-1);
  }
}

export const keys = new Keys();
