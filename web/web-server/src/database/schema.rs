//! The tables, made at the first start. A change of them is a new step here and a new number.

use sqlx::SqlitePool;

use super::Result;

/// Number of the schema that this program writes.
pub(super) const VERSION: i64 = 7;

const STEP_1: &str = "
CREATE TABLE sites (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE,
    unknown TEXT NOT NULL,
    provisional BIGINT NOT NULL,
    release_floor BIGINT NOT NULL,
    image TEXT,
    revocation BIGINT NOT NULL,
    channel_number BIGINT NOT NULL,
    channel BLOB NOT NULL
);
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    site TEXT NOT NULL REFERENCES sites (id),
    secret_hash TEXT NOT NULL UNIQUE,
    expires BIGINT NOT NULL,
    revoked BIGINT NOT NULL,
    frozen BIGINT NOT NULL,
    used_by TEXT
);
CREATE TABLE nodes (
    node_key TEXT PRIMARY KEY NOT NULL,
    site TEXT NOT NULL REFERENCES sites (id),
    name TEXT NOT NULL,
    machine TEXT NOT NULL,
    origin TEXT NOT NULL,
    facts TEXT,
    certificate BLOB NOT NULL,
    revoked BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    address TEXT,
    reports BIGINT NOT NULL
);
CREATE INDEX nodes_of_site ON nodes (site, revoked);
CREATE TABLE machines (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    admitted BIGINT NOT NULL,
    approved BIGINT NOT NULL,
    facts TEXT NOT NULL,
    install TEXT,
    seen BIGINT NOT NULL,
    PRIMARY KEY (site, id)
);
CREATE INDEX machines_by_id ON machines (id);
CREATE INDEX machines_by_seen ON machines (seen);
CREATE TABLE images (
    version TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    release BIGINT NOT NULL UNIQUE,
    disk_bytes BIGINT NOT NULL,
    used_bytes BIGINT NOT NULL,
    object_bytes BIGINT NOT NULL,
    published BIGINT NOT NULL
);
CREATE TABLE orders (
    site TEXT NOT NULL REFERENCES sites (id),
    number BIGINT NOT NULL,
    version TEXT NOT NULL REFERENCES images (version),
    machine TEXT,
    erase BIGINT NOT NULL,
    document BLOB NOT NULL,
    made BIGINT NOT NULL,
    PRIMARY KEY (site, number)
);
CREATE TABLE completions (
    site TEXT NOT NULL REFERENCES sites (id),
    machine TEXT NOT NULL,
    order_number BIGINT NOT NULL,
    node_key TEXT,
    document BLOB NOT NULL,
    PRIMARY KEY (site, machine, order_number)
);
CREATE TABLE leases (
    site TEXT NOT NULL REFERENCES sites (id),
    manifest TEXT NOT NULL,
    holder TEXT NOT NULL,
    token TEXT NOT NULL UNIQUE,
    fence BIGINT NOT NULL,
    renewed_millis BIGINT NOT NULL,
    PRIMARY KEY (site, manifest)
);
CREATE TABLE ledger (
    site TEXT NOT NULL REFERENCES sites (id),
    version TEXT NOT NULL,
    wan_bytes BIGINT NOT NULL,
    PRIMARY KEY (site, version)
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    site TEXT NOT NULL REFERENCES sites (id),
    source TEXT NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    happened BIGINT NOT NULL
);
PRAGMA user_version = 1;
";

/// Leases of islands, kinds in the ledger, and what a site's WAN may carry.
const STEP_2: &str = "
ALTER TABLE sites ADD COLUMN wan_budget TEXT NOT NULL DEFAULT '{\"windows\":[],\"utc_offset_minutes\":0}';
ALTER TABLE sites ADD COLUMN wan_paused BIGINT NOT NULL DEFAULT 0;
CREATE TABLE wan_versions (
    site TEXT NOT NULL REFERENCES sites (id),
    version TEXT NOT NULL REFERENCES images (version),
    paused BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    PRIMARY KEY (site, version)
);
ALTER TABLE leases RENAME TO leases_1;
CREATE TABLE leases (
    site TEXT NOT NULL REFERENCES sites (id),
    manifest TEXT NOT NULL,
    island TEXT NOT NULL,
    holder TEXT NOT NULL,
    token TEXT NOT NULL UNIQUE,
    fence BIGINT NOT NULL,
    finished BIGINT NOT NULL,
    PRIMARY KEY (site, manifest, island)
);
INSERT INTO leases SELECT site, manifest, '', holder, token, fence, 0 FROM leases_1;
DROP TABLE leases_1;
ALTER TABLE ledger RENAME TO ledger_1;
CREATE TABLE ledger (
    site TEXT NOT NULL REFERENCES sites (id),
    version TEXT NOT NULL,
    kind TEXT NOT NULL,
    wan_bytes BIGINT NOT NULL,
    PRIMARY KEY (site, version, kind)
);
INSERT INTO ledger SELECT site, version, 'main', wan_bytes FROM ledger_1;
DROP TABLE ledger_1;
PRAGMA user_version = 2;
";

/// Agents that fetch without a node, by the tickets that they showed.
const STEP_3: &str = "
CREATE TABLE agents (
    ticket TEXT PRIMARY KEY NOT NULL,
    agent_key TEXT NOT NULL,
    site TEXT NOT NULL REFERENCES sites (id),
    machine TEXT NOT NULL,
    order_number BIGINT NOT NULL,
    issuer TEXT NOT NULL,
    certified TEXT NOT NULL,
    until BIGINT NOT NULL
);
CREATE INDEX agents_by_key ON agents (agent_key, until);
CREATE INDEX agents_of_site ON agents (site, until);
PRAGMA user_version = 3;
";

/// By what machines are known again, and PINs.
const STEP_4: &str = "
ALTER TABLE sites ADD COLUMN roster_number BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sites ADD COLUMN roster BLOB NOT NULL DEFAULT x'';
ALTER TABLE sites ADD COLUMN pin_number BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sites ADD COLUMN pin TEXT;
ALTER TABLE machines ADD COLUMN tpm TEXT;
ALTER TABLE machines ADD COLUMN code TEXT;
CREATE TABLE machine_signs (
    site TEXT NOT NULL REFERENCES sites (id),
    machine TEXT NOT NULL,
    sign TEXT NOT NULL,
    seen BIGINT NOT NULL,
    PRIMARY KEY (site, machine, sign)
);
CREATE TABLE shared_signs (
    site TEXT NOT NULL REFERENCES sites (id),
    sign TEXT NOT NULL,
    what TEXT NOT NULL,
    PRIMARY KEY (site, sign)
);
PRAGMA user_version = 4;
";

/// What waits for a signature by a key that HQ does not hold, the highest number that a channel of the site was ever given,
/// whether a node has its certificate as it is here, and the root of which the sites were told.
const STEP_5: &str = "
ALTER TABLE sites ADD COLUMN channel_given BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN certificate_taken BIGINT NOT NULL DEFAULT 1;
CREATE TABLE waiting_images (
    version TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    release BIGINT NOT NULL UNIQUE,
    disk_bytes BIGINT NOT NULL,
    used_bytes BIGINT NOT NULL,
    object_bytes BIGINT NOT NULL,
    published BIGINT NOT NULL
);
CREATE TABLE waiting_channels (
    site TEXT PRIMARY KEY NOT NULL REFERENCES sites (id),
    document BLOB NOT NULL
);
CREATE TABLE waiting_orders (
    site TEXT NOT NULL REFERENCES sites (id),
    number BIGINT NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (site, number)
);
CREATE TABLE told_root (digest TEXT NOT NULL);
PRAGMA user_version = 5;
";

/// Vouchers, and the machines whose rights came from them.
const STEP_6: &str = "
CREATE TABLE vouchers (
    node_key TEXT PRIMARY KEY NOT NULL REFERENCES nodes (node_key),
    machines BIGINT NOT NULL,
    order_number BIGINT,
    made BIGINT NOT NULL
);
CREATE TABLE voucher_machines (
    node_key TEXT NOT NULL REFERENCES vouchers (node_key),
    machine TEXT NOT NULL,
    beyond BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    PRIMARY KEY (node_key, machine)
);
PRAGMA user_version = 6;
";

/// Which node has another one's place, since when, and when the other was heard of all the same; under which order a node was put on
/// its machine; and which node a token replaces. What is known of machines that were imaged more than once is caught up with.
const STEP_7: &str = "
ALTER TABLE nodes ADD COLUMN order_number BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN replaced_by TEXT;
ALTER TABLE nodes ADD COLUMN replaced BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN heard_again BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN replaces TEXT;
CREATE INDEX nodes_of_machine ON nodes (site, machine);
UPDATE nodes SET order_number = COALESCE((SELECT MAX(c.order_number) FROM completions c
    WHERE c.site = nodes.site AND c.machine = nodes.machine AND c.node_key = nodes.node_key), 0);
UPDATE nodes SET replaced_by = (SELECT c.node_key FROM completions c
    WHERE c.site = nodes.site AND c.machine = nodes.machine AND c.node_key IS NOT NULL
        AND c.order_number > nodes.order_number
    ORDER BY c.order_number DESC LIMIT 1)
WHERE order_number > 0;
PRAGMA user_version = 7;
";

/// Makes the tables in a new file, and brings those of an older program up. Returns the number that the file has then.
pub(super) async fn bring_up(writer: &SqlitePool) -> Result<i64> {
    let mut change = writer.begin_with("BEGIN IMMEDIATE").await?;
    let found: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *change)
        .await?;
    if found >= VERSION {
        return Ok(found);
    }
    for (number, step) in (1..).zip([STEP_1, STEP_2, STEP_3, STEP_4, STEP_5, STEP_6, STEP_7]) {
        if found < number {
            sqlx::raw_sql(step).execute(&mut *change).await?;
        }
    }
    change.commit().await?;
    Ok(VERSION)
}
