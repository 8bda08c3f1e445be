// A list of HQ's, read page by page, and kept true while it is looked at.

import { get, isAway, sentence, type PathOf, type Wish } from "../api/client";
import type { Page } from "../api/types";
import { appended, replaced } from "../core/rows";

const PAGE_ROWS = 100;
/** HQ gives no more rows at once; a list that has grown beyond is not read again by itself. */
const PAGE_ROWS_MAX = 500;
/** A list that changes all the time is read again so often at most. */
const AGAIN_MS = 1500;

type ListPath = { [P in PathOf<"get">]: Wish<"get", P> extends { query?: { after?: unknown } } ? P : never }[PathOf<"get">];
type Asked = Readonly<Record<string, string | undefined>>;

function isSame(one: Asked, other: Asked): boolean {
  const names = new Set([...Object.keys(one), ...Object.keys(other)]);
  return [...names].every((name) => one[name] === other[name]);
}

export class List<Row> {
  rows: Row[] = $state.raw([]);
  /** How many there are, as far as HQ counted. */
  total: number | undefined = $state();
  hasMore = $state(false);
  /** Nothing was read yet, or something else is asked for now. */
  isFirst = $state(true);
  isReading = $state(false);
  failure = $state("");

  #next: string | undefined;
  #asked: Asked | undefined;
  #turn = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #readAt = 0;

  constructor(
    private readonly path: ListPath,
    readonly key: (row: Row) => string,
    private readonly isNewer: (row: Row, than: Row) => boolean = () => true,
  ) {}

  /** These rows are wanted. False when they are the same as before: an address says more than what a list is asked for. */
  ask(asked: Asked): boolean {
    const before = this.#asked;
    this.#asked = asked;
    if (before !== undefined && isSame(before, asked)) return false;
    this.isFirst = true;
    void this.#read(PAGE_ROWS);
    return true;
  }

  /** The next page, behind what is there. */
  async more(): Promise<void> {
    if (!this.hasMore || this.isReading) return;
    await this.#page({ limit: String(PAGE_ROWS), after: this.#next }, (page) => {
      this.rows = appended(this.rows, page.rows, this.key);
    });
  }

  /** The same rows as they are now, soon: many changes at once are read once. */
  again(): void {
    if (this.#timer !== undefined || this.rows.length > PAGE_ROWS_MAX) return;
    // a page that is on its way is not thrown away
    const wait = this.isReading ? AGAIN_MS : Math.max(0, this.#readAt + AGAIN_MS - Date.now());
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.isReading) this.again();
      else void this.#read(Math.min(PAGE_ROWS_MAX, Math.max(PAGE_ROWS, this.rows.length)));
    }, wait);
  }

  /** One row as it is now; false when it is not among those that are shown. */
  put(row: Row): boolean {
    const rows = replaced(this.rows, row, this.key, this.isNewer);
    if (rows !== undefined) this.rows = rows;
    return rows !== undefined || this.rows.some((known) => this.key(known) === this.key(row));
  }

  /** Nothing is read any more. */
  end(): void {
    clearTimeout(this.#timer);
    this.#turn += 1;
  }

  async #read(limit: number): Promise<void> {
    await this.#page({ limit: String(limit) }, (page) => {
      this.rows = page.rows;
      this.total = page.total;
    });
  }

  async #page(how: Asked, take: (page: Page<Row>) => void): Promise<void> {
    this.#turn += 1;
    const turn = this.#turn;
    this.isReading = true;
    this.#readAt = Date.now();
    try {
      const wish = { query: { ...this.#asked, ...how } } as Wish<"get", ListPath>;
      const page = (await get(this.path, wish)) as unknown as Page<Row>;
      // somebody asked for something else meanwhile
      if (turn !== this.#turn) return;
      take(page);
      this.#next = page.next;
      this.hasMore = page.next !== undefined;
      this.failure = "";
      this.isFirst = false;
    } catch (error) {
      // what is there can be read on, and the page says by itself that HQ is not heard
      if (turn !== this.#turn || (isAway(error) && !this.isFirst)) return;
      this.failure = sentence(error);
    } finally {
      if (turn === this.#turn) this.isReading = false;
    }
  }
}
