"""HQ and the nodes of a whole chain: `rows(quick)` gives what they cost it.

The chain of `hq.py` is in HQ's own tables. One node of each of 5,000 sites reports for 20 over a TLS connection that is kept; the others
call once in ten minutes, each over a new connection; 2,000 machines in 500 stores are imaged and make progress every second; a page watches
all of it. They all run on the same two cores as HQ, so HQ's own processor time is what counts, and the time that a page waits includes what
the nodes take."""

import json
import os
import resource
import sqlite3
import subprocess
import tempfile

from bench import CACHE, text, wait_for
from hq import MACHINES, QUICK, SITES, Hq, identity, load_file

KEYS = ["hq.fleet_cores", "hq.fleet_rss_mib", "hq.live_delay_ms"]
IMAGED, IMAGED_OF_SITE = 2_000, 4
SECONDS, QUICK_SECONDS = 90, 20
GOALS = {"hq.fleet_cores": 1, "hq.fleet_rss_mib": 400, "hq.live_delay_ms": 1000}
CONNECTED_WITHIN = 300
TICKS = os.sysconf("SC_CLK_TCK")
FLEET = os.environ.get("LAMPLIGHTER_FLEET", "")


def give_keys(file, machines):
    """The tables' nodes get keys that the fleet has."""
    keys = subprocess.run([FLEET, "keys", str(machines)], check=True, capture_output=True, text=True).stdout.split()
    with sqlite3.connect(file) as db:
        for table in ("nodes", "node_words"):
            db.executemany(f"UPDATE {table} SET node_key = ? WHERE node_key = ?", ((key, identity("b", n, 64)) for n, key in enumerate(keys)))
        db.execute("UPDATE nodes SET address = '127.0.0.1:4433'")
        # a machine that needs something has a node that says so itself; here all do what the fleet makes them do
        db.execute("UPDATE machines SET state = 'done'")
    db.close()


def plan(sites, machines):
    """For each site its nodes, the first of which reports, and the machines that it images."""
    stores = IMAGED * sites // SITES // IMAGED_OF_SITE
    for site in range(sites):
        here = range(site, machines, sites)
        imaged = [identity("a", n, 32) for n in here[1 : 1 + IMAGED_OF_SITE]] if site < stores else []
        yield json.dumps({"nodes": list(here), "imaged": imaged})


def allow_connections():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def processor_seconds(pid):
    fields = text(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rows(keys, quick):
    scale, seconds = (QUICK, QUICK_SECONDS) if quick else (1, SECONDS)
    sites, machines = SITES // scale, MACHINES // scale
    with tempfile.TemporaryDirectory(prefix="lamplighter-bench-fleet-", dir=CACHE) as folder:
        # makes the tables
        Hq(folder, []).end()
        load_file(f"{folder}/hq", scale)
        give_keys(f"{folder}/hq/hq.sqlite", machines)
        with open(f"{folder}/plan", "w") as file:
            file.writelines(line + "\n" for line in plan(sites, machines))
        hq = Hq(folder, [])
        log = f"{folder}/fleet.log"
        with open(log, "w") as out, open(f"{folder}/faults.log", "w") as faults:
            fleet = subprocess.Popen([FLEET, "run", f"{folder}/hq/admin-token", f"{folder}/plan", str(seconds)], stdout=out, stderr=faults,
                                     preexec_fn=allow_connections)
            try:
                wait_for(lambda: "running" in text(log) or fleet.poll() is not None, CONNECTED_WITHIN)
                before = processor_seconds(hq.program.process.pid)
                code = fleet.wait(timeout=2 * seconds + 60)
                cores = (processor_seconds(hq.program.process.pid) - before) / seconds
            finally:
                fleet.kill()
                fleet.wait()
        faults = text(f"{folder}/faults.log").splitlines()
        if code != 0:
            raise SystemExit(f"hq: the fleet ended with {code}: {' / '.join(faults[-3:])}")
        done = json.loads(text(log).splitlines()[-1])
        peak = hq.program.peak_mib
        hq.end()
    per_second = {f"{what}_per_s": round(done[what] / seconds, 1) for what in ("lives", "progress", "own_calls")}
    load = {"sites": sites, "nodes": machines, **per_second, "failed": done["failed"]}
    delays = {what: done[what] for what in ("delay_ms_p50", "delay_ms_p99", "delay_ms_max", "shown")}
    # the worst of all, not a percentile: people wait for what they see
    found = {"hq.fleet_cores": (round(cores, 3), "cores", load), "hq.fleet_rss_mib": (round(peak, 1), "MiB", load),
             "hq.live_delay_ms": (done["delay_ms_max"], "ms", load | delays)}
    for key, (value, unit, beside) in found.items():
        if key in keys:
            yield {"key": key, "value": value, "unit": unit, "goal": f"<= {GOALS[key]}", "peers": beside | {"faults": faults[:2]}, "runs": 1}
