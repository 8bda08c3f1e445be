// Rows of lists, as they come in pages and change one by one.

/** The rows with those of a further page behind them. A row that moved meanwhile is kept once, as it is now. */
export function appended<Row>(rows: readonly Row[], more: readonly Row[], key: (row: Row) => string): Row[] {
  const fresh = new Set(more.map(key));
  return [...rows.filter((row) => !fresh.has(key(row))), ...more];
}

/** The rows with one of them replaced, at its place; undefined when it is not among them, or is older than what is known. */
export function replaced<Row>(rows: readonly Row[], row: Row, key: (row: Row) => string, isNewer: (row: Row, than: Row) => boolean): Row[] | undefined {
  const at = rows.findIndex((known) => key(known) === key(row));
  const known = rows[at];
  if (known === undefined || !isNewer(row, known)) return undefined;
  return rows.with(at, row);
}

/** The row that is so many below the chosen one; from none, the first or the last. */
export function moved<Row>(rows: readonly Row[], key: (row: Row) => string, chosen: string | undefined, by: number): string | undefined {
  if (rows.length === 0) return undefined;
  const at = rows.findIndex((row) => key(row) === chosen);
  const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by));
  const row = rows[next];
  return row === undefined ? undefined : key(row);
}
