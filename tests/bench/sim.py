"""A store and a chain under a virtual clock: `rows(keys)` gives one row of figures after the other.

The program is the simulator of tests/site-sim: the real cores, no socket and no clock, so nothing here depends on what else this
computer does; the seconds are virtual ones. Each figure is one run, and would be the same again."""

import json
import os
import re
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

SEEDS = 10_000
MACHINES, MACHINES_CHUNKS, MACHINES_GOAL = 200, 600, 1.10
# clients: our goal, what EZIO's README has for EZIO and for multicast at as many clients, or the range that these lie in
EZIO = {1: (450, "675-1412", "390-980"), 4: (500, "675-1412", "390-980"), 8: (520, "675-1412", "390-980"), 32: (600, "1143", "2203")}
# all parts of 50 GB where that takes minutes; of more machines a part, extended by the rate of its second half
EZIO_CHUNKS = {1: 47_684, 4: 47_684, 8: 12_000, 32: 3_000}
SITES, SITES_CHUNKS = 5000, 2_300
KEYS = ["site.sim_failed", "site.sim_200", *(f"site.ezio_n{n}" for n in EZIO), "site.sim_5000"]


def simulate(*arguments):
    command = ["cargo", "run", "-q", "--release", "--locked", "-p", "site-sim", "--", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def figures(*arguments):
    done = simulate(*arguments)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def row(key, value, unit, goal, peers):
    return {"key": key, "value": value, "unit": unit, "goal": goal, "peers": peers, "runs": 1}


def failed():
    """Of stores where several things go wrong at once, those in which an invariant did not hold."""
    out = simulate("--seeds", SEEDS).stdout
    last = re.search(r"^(\d+) failed of (\d+), ([\d.]+) s", out, re.MULTILINE)
    if not last:
        raise SystemExit(f"bench: the simulator said {out!r}")
    return row("site.sim_failed", int(last[1]), f"of {last[2]}", "0", {"seconds": float(last[3])})


def machines():
    found = figures("--machines", MACHINES, "--chunks", MACHINES_CHUNKS)
    peers = {k: found[k] for k in ("seconds", "bound_seconds", "source_copies")}
    return row("site.sim_200", round(found["ratio"], 3), "x size/rate", f"<= {MACHINES_GOAL}", peers)


def ezio(count):
    goal, published, multicast = EZIO[count]
    found = figures("--ezio", count, "--chunks", EZIO_CHUNKS[count])
    # until all is written, which is what EZIO's table measures; ours reads it back as well, which on the same disk takes as long again
    peers = {"EZIO": published, "multicast": multicast, "read back too": found["seconds"],
             "LAN GB": round(found["lan_bytes"] / 1e9, 1), "source copies": found["source_copies"],
             "disk MB/s": found["disk_bytes_per_second"] // 1_000_000, "chunks simulated": f"{found['chunks']} of {found['of_chunks']}"}
    return row(f"site.ezio_n{count}", found["seconds_without_reading_back"], "s", f"<= {goal}", peers)


def sites():
    found = figures("--sites", SITES, "--chunks", SITES_CHUNKS)
    peers = {k: v for k, v in found.items() if k not in ("sites", "wan_ratio")}
    return row("site.sim_5000", found["wan_ratio"], "x objects", "<= 1.0005", peers)


def rows(keys):
    """Measures `keys` in their order here."""
    for key in KEYS:
        if key not in keys:
            continue
        if key.startswith("site.ezio_n"):
            yield ezio(int(key.removeprefix("site.ezio_n")))
        else:
            yield {"site.sim_failed": failed, "site.sim_200": machines, "site.sim_5000": sites}[key]()
