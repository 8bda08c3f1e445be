"""HQ with a whole chain in it: `rows(keys, quick)` gives one row of figures after the other.

5,000 sites, 100,000 machines with as many nodes, 25,000 orders and a million lines of events are put into HQ's own tables, in a file and in
PostgreSQL, where a chain of that size would have them after some years. Then people ask for lists over a TLS connection that is kept:
first pages, pages far behind, every order, filter and search. The figure is the slowest list's 95th percentile. HQ signs every site's
documents when it starts, so it starts before the clock runs."""

import csv
import hashlib
import http.client
import json
import os
import random
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [path for path in (HERE,) if path not in sys.path]

from bench import CACHE, LAMPLIGHTER, Watched, text, wait_for  # noqa: E402

KEYS = ["hq.list_p95_ms_sqlite", "hq.list_p95_ms_postgres"]
SITES, MACHINES, ORDERS, EVENTS, VERSIONS = 5_000, 100_000, 25_000, 1_000_000, 40
QUICK = 20
ASKED = 60
GOAL_MS = 50
START_SECONDS = 900
NOW = 1_795_000_000
MODELS = ["Dell Inc. OptiPlex 7090", "LENOVO ThinkCentre M70q", "HP ProDesk 400 G7", "FUJITSU ESPRIMO Q558", "NCR 7772 till"]
MAKERS = ["b04f13", "e86a64", "0068eb", "901b0e", "000c26"]
STATES = {"done": 0.93, "failed": 0.02, "imaging": 0.02, "ready": 0.02, "waiting": 0.01}


def identity(kind, number, digits):
    """As those of real machines and keys are: random digits."""
    return hashlib.blake2b(f"{kind}{number}".encode(), digest_size=digits // 2).hexdigest()


def tables(scale):
    """Names of tables with their columns, and their rows."""
    dice = random.Random(7)
    sites, machines, orders, events = SITES // scale, MACHINES // scale, ORDERS // scale, EVENTS // scale
    site = [identity("5", n, 32) for n in range(sites)]
    versions = [identity("e", n, 64) for n in range(VERSIONS)]
    yield "sites", ["id", "name", "unknown", "provisional", "release_floor", "revocation", "channel_number", "channel", "words"], (
        (site[n], f"Store {n:04} {town(n)}", "wait", 1, 0, 0, 0, b"", f"store {n:04} {town(n).lower()}") for n in range(sites))
    yield "site_tags", ["site", "tag"], ((site[n], f"region-{n % 40}") for n in range(sites))
    yield "images", ["version", "name", "kind", "release", "disk_bytes", "used_bytes", "object_bytes", "published"], (
        (version, f"till-{n % 4}", "image", n + 1, 64 << 30, 20 << 30, 8 << 30, NOW - n) for n, version in enumerate(versions))
    states = dice.choices(list(STATES), STATES.values(), k=machines)
    yield "machines", ["site", "id", "admitted", "approved", "facts", "install", "seen", "state"], (
        (site[n % sites], identity("a", n, 32), int(states[n] != "waiting"), 0, json.dumps(facts(n), separators=(",", ":")),
         install(states[n], versions[n % VERSIONS]), NOW - n * 7919 % 1_000_000, states[n]) for n in range(machines))
    yield "machine_words", ["site", "id", "words"], (
        (site[n % sites], identity("a", n, 32), words(n)) for n in range(machines))
    yield "nodes", ["node_key", "site", "name", "machine", "origin", "certificate", "revoked", "seen", "address", "reports"], (
        (identity("b", n, 64), site[n % sites], f"till-{n // sites}", identity("a", n, 32), "certified", bytes(300), 0,
         NOW - n * 7919 % 1_000_000, "10.1.2.3:4433", 5) for n in range(machines))
    yield "node_words", ["node_key", "site", "words"], (
        (identity("b", n, 64), site[n % sites], f"{identity('b', n, 64)} {identity('a', n, 32)} till-{n // sites}") for n in range(machines))
    yield "orders", ["site", "number", "version", "erase", "document", "made"], (
        (site[n % sites], n // sites + 1, versions[n % VERSIONS], 0, bytes(200), NOW - n) for n in range(orders))
    yield "completions", ["site", "machine", "order_number", "document"], (
        (site[n % sites], identity("a", n, 32), n % (ORDERS // SITES) + 1, bytes(200)) for n in range(machines))
    yield "ledger", ["site", "version", "kind", "wan_bytes"], (
        (site[n % sites], versions[(n + n // sites) % VERSIONS], "main", dice.randrange(1 << 33)) for n in range(orders))
    kinds = ["boot", "holds", "holds", "holds", "trouble"]
    yield "events", ["site", "source", "kind", "message", "happened"], (
        (site[n * 7919 % sites], f"till-{n % 20}", kinds[n % 5], f"version {n % VERSIONS} is complete: {n} chunks", NOW - EVENTS + n)
        for n in range(events))


def town(number):
    return ["Aachen", "Bonn", "Dover", "Essen", "Kiel", "Lyon", "Malmö", "Porto", "Turin", "Zürich"][number % 10]


def facts(number):
    return {"uuid": identity("d", number, 32), "serial": f"SN-{number:07}", "macs": [MAKERS[number % 5] + identity("c", number, 6)],
            "model": MODELS[number % 5]}


def words(number):
    said = facts(number)
    kept = []
    for word in " ".join([identity("a", number, 32), said["model"], said["uuid"], said["serial"], *said["macs"]]).lower().split():
        bare = word.translate(str.maketrans("", "", ":-."))
        kept += [word] if bare == word else [word, bare]
    return " ".join(kept)


def install(state, version):
    if state in ("waiting", "ready"):
        return None
    state = {"imaging": "writing"}.get(state, state)
    report = {"state": state, "version": version, "order": 1, "done_bytes": 5 << 30, "total_bytes": 20 << 30, "received_bytes": 4 << 30,
              "from": [[f"till-{n}", 4000] for n in range(4)], "message": "the disk is whole"}
    return json.dumps(report, separators=(",", ":"))


def load_file(folder, scale):
    with sqlite3.connect(f"{folder}/hq.sqlite") as db:
        for table, columns, rows in tables(scale):
            places = ", ".join("?" * len(columns))
            db.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)
    # what the database itself does in quiet hours
    db.execute("ANALYZE")
    db.close()


def load_server(url, folder, scale):
    for table, columns, rows in tables(scale):
        path = f"{folder}/{table}.csv"
        with open(path, "w", newline="") as file:
            out = csv.writer(file)
            for row in rows:
                out.writerow(["\\x" + cell.hex() if isinstance(cell, bytes) else cell for cell in row])
        psql(url, f"\\copy {table} ({', '.join(columns)}) FROM '{path}' WITH (FORMAT csv)")
        os.remove(path)
    psql(url, "VACUUM ANALYZE")


def psql(url, command):
    # a client's library looks for certificates as the server's own user has them
    subprocess.run(["psql", "-q", "-X", "-v", "ON_ERROR_STOP=1", "-c", command, url], check=True)


class Hq:
    def __init__(self, folder, more):
        self.log = f"{folder}/hq.log"
        command = [LAMPLIGHTER, "hq", "--dir", f"{folder}/hq", "--listen", "127.0.0.1:0", *more]
        self.program = Watched(command, self.log)
        line = wait_for(lambda: [l for l in text(self.log).splitlines() if "listening" in l], START_SECONDS)[0]
        self.address = line.split("https://")[1].split()[0].rstrip("/,")
        self.token = text(f"{folder}/hq/admin-token").splitlines()[0]
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.line = http.client.HTTPSConnection(self.address, context=context)

    def get(self, path):
        self.line.request("GET", f"/api/v1/{path}", headers={"Authorization": f"Bearer {self.token}"})
        answer = self.line.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"hq: {path}: {answer.status} {body[:200]}")
        return json.loads(body)

    def end(self):
        self.program.end()


def lists(dice, sites, machines):
    """Every list in every order, and what people ask of them; each time something else."""
    some = lambda: dice.randrange(machines)  # noqa: E731
    store = lambda: dice.randrange(sites)  # noqa: E731
    return {
        **{f"sites by {sort}": (lambda sort=sort: f"sites?sort={sort}") for sort in ("name", "machines", "failed", "wan")},
        "sites of a tag": lambda: f"sites?tag=region-{store() % 40}",
        "sites with failures": lambda: "sites?has=failed",
        "sites by words": lambda: f"sites?search=store+{store():04}",
        "machines": lambda: "machines",
        "machines by site": lambda: "machines?sort=site",
        "machines of a site": lambda: f"machines?site=Store+{(n := store()):04}+{http_quoted(town(n))}",
        **{f"machines {state}": (lambda state=state: f"machines?state={state}") for state in STATES},
        "machines by serial": lambda: f"machines?search=sn-{some():07}",
        "machines by digits": lambda: f"machines?search={some():05}",
        "machines by address": lambda: f"machines?search={coloned(facts(some())['macs'][0])}",
        "machines by a label's end": lambda: f"machines?search={coloned(identity('c', some(), 6))}",
        "machines by maker's address": lambda: f"machines?search={coloned(MAKERS[some() % 5])}",
        "machines by model": lambda: "machines?search=optiplex+dell",
        "no machine at all": lambda: f"machines?search=nothing-{some()}",
        **{f"nodes by {sort}": (lambda sort=sort: f"nodes?sort={sort}&state=living") for sort in ("seen", "name", "site")},
        "machines of a site by words": lambda: f"machines?site=Store+{(n := store()):04}+{http_quoted(town(n))}&search=dell",
        "nodes by key": lambda: f"nodes?search={identity('b', some(), 64)[:8]}",
        "orders": lambda: "orders",
        "orders by site": lambda: "orders?sort=site",
        "images": lambda: "images",
        "ledger": lambda: "ledger",
        "ledger by bytes": lambda: "ledger?sort=bytes",
        "events": lambda: "events",
        "events of a kind": lambda: "events?kind=trouble",
        "events of a site": lambda: f"events?site=Store+{(n := store()):04}+{http_quoted(town(n))}",
        "events by words": lambda: f"events?search={some()}+chunks",
        "no event at all": lambda: f"events?search=nothing-{some()}",
        "summary": lambda: "summary",
    }


def coloned(digits):
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def http_quoted(name):
    return "".join(f"%{byte:02X}" for byte in name.encode())


def milliseconds(hq, path):
    begun = time.perf_counter()
    answer = hq.get(path)
    return (time.perf_counter() - begun) * 1000, answer


def p95(values):
    return sorted(values)[int(len(values) * 0.95)]


def far(hq, path):
    """The path of a page that is some pages behind the first, or the first when there is no other."""
    join, at = "&" if "?" in path else "?", path
    for _ in range(5):
        answer = hq.get(at)
        if not answer.get("next"):
            break
        at = f"{path}{join}after={answer['next']}"
    return at


def measure(hq, sites, machines):
    """The 95th percentile of each list, in milliseconds."""
    dice = random.Random(11)
    asked = lists(dice, sites, machines)
    found = {}
    for name, path in asked.items():
        milliseconds(hq, path())
        found[name] = p95([milliseconds(hq, path())[0] for _ in range(ASKED)])
        behind = far(hq, path()) if name != "summary" else path()
        if "after=" in behind:
            found[f"{name}, behind"] = p95([milliseconds(hq, behind)[0] for _ in range(ASKED)])
    return {name: round(value, 1) for name, value in sorted(found.items(), key=lambda item: -item[1])}


def of_kind(kind, scale):
    with tempfile.TemporaryDirectory(prefix="lamplighter-bench-hq-", dir=CACHE) as folder:
        more = []
        if kind == "postgres":
            url = os.environ["LAMPLIGHTER_TEST_POSTGRES"]
            psql(url, "CREATE DATABASE bench")
            url = url.replace("/postgres?", "/bench?")
            more = ["--database", url]
        # makes the tables
        Hq(folder, more).end()
        load_server(url, folder, scale) if kind == "postgres" else load_file(f"{folder}/hq", scale)
        hq = Hq(folder, more)
        found = measure(hq, SITES // scale, MACHINES // scale)
        peak = hq.program.peak_mib
        hq.end()
    slowest = dict(list(found.items())[:6])
    return {"key": f"hq.list_p95_ms_{kind}", "value": max(found.values()), "unit": "ms", "goal": f"<= {GOAL_MS}",
            "peers": slowest | {"lists": len(found), "hq_mib": round(peak, 1)}, "runs": ASKED}


def rows(keys, quick):
    for key in KEYS:
        if key in keys:
            yield of_kind(key.rsplit("_", 1)[1], QUICK if quick else 1)
