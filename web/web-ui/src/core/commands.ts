// Commands that people run elsewhere, exactly as they are typed.

/** A word as a POSIX shell takes it. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** Starts a site's first node with an enrolment token. */
export function nodeCommand(token: string): string {
  return `lamplighter node --dir /var/lib/lamplighter --enrol ${token}`;
}

export const IMPORT_IMAGE = "lamplighter image import till.raw --name till";

/** A voucher for a site: its key is made where the command runs, so no page can make one. */
export function voucherCommand(site: string): string {
  return `lamplighter voucher new --site ${quoted(site)} --machines 8 --name "van 3" --out van3.voucher`;
}
