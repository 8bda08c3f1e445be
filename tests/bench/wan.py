"""One WAN fetch per site, and the site's budget: `rows()` gives one row of figures after the other.

HQ, nodes and machines are real programs in network namespaces. Each node has a link of its own to HQ, and all share a LAN. WAN bytes
are those of HQ's ledger; the budget is measured at the node's WAN interface, headers included. Needs root."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

from bench import AGENT, CACHE, LAMPLIGHTER, MIB, Watched, configure_node, text, wait_for

# a store's line: an image of a till takes minutes over it, and the LAN behind it is ten times as fast
WAN_MBIT = 100
OBJECT_MIB = 96
PAUSE_SECONDS = 60
PERCENTS = (30, 60, 90)
BUDGET_BYTES = 1_000_000
BUDGET_SECONDS = 25
WINDOW_SECONDS = 10
SITES = iter(range(1000))


def ip(*command):
    subprocess.run(["ip", *command], check=True)


class Store:
    """HQ, `nodes` nodes and `machines` machines, in namespaces."""

    # of each node that is started from now on
    slab_bytes = 1 << 30

    def __init__(self, folder, nodes, machines=0, wan_mbit=WAN_MBIT):
        self.folder = folder
        self.prefix = f"lbw{os.getpid()}x{next(SITES)}"
        self.roles = ["hq", "sw"] + [f"n{n}" for n in range(nodes)] + [f"m{n}" for n in range(machines)]
        self.programs = []
        try:
            self.wire(nodes, machines, wan_mbit)
            self.start_hq()
        except BaseException:
            self.end()
            raise

    def name(self, role):
        return f"{self.prefix}{role}"

    def wire(self, nodes, machines, wan_mbit):
        for role in self.roles:
            ip("netns", "add", self.name(role))
            ip("-n", self.name(role), "link", "set", "lo", "up")
        hq, switch = self.name("hq"), self.name("sw")
        ip("-n", switch, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0")
        ip("-n", switch, "link", "set", "br0", "up")
        for n in range(nodes):
            node = self.name(f"n{n}")
            ip("link", "add", f"wan{n}", "netns", hq, "type", "veth", "peer", "name", "wan", "netns", node)
            for at, device, last in ((hq, f"wan{n}", 1), (node, "wan", 2)):
                ip("-n", at, "address", "add", f"10.79.{n}.{last}/24", "dev", device)
                ip("-n", at, "link", "set", device, "up", "gso_max_segs", "1")
            ip("-n", node, "route", "add", "default", "via", f"10.79.{n}.1")
            if wan_mbit:
                rate = ["rate", f"{wan_mbit}mbit", "burst", "64kb", "latency", "50ms"]
                subprocess.run(["tc", "-n", hq, "qdisc", "add", "dev", f"wan{n}", "root", "tbf", *rate], check=True)
        for n, role in enumerate(self.roles[2:]):
            member = self.name(role)
            ip("link", "add", "e0", "netns", member, "type", "veth", "peer", "name", f"p{n}", "netns", switch)
            ip("-n", switch, "link", "set", f"p{n}", "master", "br0", "up")
            ip("-n", member, "address", "add", f"10.80.0.{10 + n}/24", "dev", "e0")
            ip("-n", member, "link", "set", "e0", "up")

    def inside(self, role, command):
        return ["ip", "netns", "exec", self.name(role), *command]

    def start_hq(self):
        log, env = f"{self.folder}/hq.log", dict(os.environ, XDG_RUNTIME_DIR=self.folder, LAMPLIGHTER_LOG="info")
        command = [LAMPLIGHTER, "hq", "--dir", f"{self.folder}/hq", "--listen", "10.79.0.1:8443"]
        self.programs.append(Watched(self.inside("hq", command), log, env=env))
        wait_for(lambda: "listening" in text(log))
        self.ask("site", "add", "store", "--unknown", "admit")

    def ask(self, *command):
        whole = self.inside("hq", [LAMPLIGHTER, *command, "--json", "--token-file", f"{self.folder}/hq/admin-token"])
        done = subprocess.run(whole, capture_output=True, env=dict(os.environ, LAMPLIGHTER_LOG="error"))
        if done.returncode:
            raise SystemExit(f"bench: {' '.join(command)}: {done.stderr.decode()}")
        return json.loads(done.stdout)

    def publish(self, mib):
        """An image of noise; returns the bytes of its objects."""
        path, source = f"{self.folder}/image.raw", random.Random(mib)
        with open(path, "wb") as file:
            for _ in range(mib):
                file.write(source.randbytes(MIB))
        done = self.ask("image", "import", path, "--name", "till")
        os.remove(path)
        return done["object_bytes"]

    def order(self):
        self.ask("order", "add", "--site", "store", "--version", "till")

    def token(self):
        return self.ask("site", "token", "store")["token"]

    def start_node(self, n, count, token):
        folder, log = f"{self.folder}/n{n}", f"{self.folder}/n{n}.log"
        configure_node(folder)
        with open(f"{folder}/peers", "w") as peers:
            peers.write("\n".join(f"10.80.0.{10 + o}:4433" for o in range(count) if o != n))
        command = [LAMPLIGHTER, "node", "--dir", folder, "--enrol", token, "--boot", "off", "--no-beacons", "--listen",
                   f"10.80.0.{10 + n}:4433", "--slab-bytes", str(self.slab_bytes)]
        node = Watched(self.inside(f"n{n}", command), log)
        node.log, node.number = log, n
        self.programs.append(node)
        return node

    def start_machine(self, n):
        name = f"{self.folder}/m{n}"
        command = [AGENT, "image", "--to", f"{name}.raw", "--node", "10.80.0.10:4433", "--json", f"{name}.json", "--stay"]
        self.programs.append(Watched(self.inside(f"m{n}", command), f"{name}.log"))

    def wan_bytes(self):
        return sum(line["wan_bytes"] for line in self.ask("ledger"))

    def wan_bytes_at_rest(self):
        """The ledger is written a moment after the last byte."""
        last = self.wan_bytes()
        while True:
            time.sleep(1)
            now = self.wan_bytes()
            if now == last:
                return now
            last = now

    def received(self):
        path = "/sys/class/net/wan/statistics/rx_bytes"
        return int(subprocess.run(self.inside("n0", ["cat", path]), capture_output=True, check=True).stdout)

    def end(self):
        for program in self.programs:
            program.end()
        for role in self.roles:
            subprocess.run(["ip", "netns", "del", self.name(role)], check=False, stderr=subprocess.DEVNULL)


def in_store(*shape, **more):
    """A store in a folder of its own, ended whatever happens."""

    class Within:
        def __enter__(self):
            self.folder = tempfile.TemporaryDirectory(prefix="lamplighter-wan-", dir=CACHE)
            self.store = Store(self.folder.name, *shape, **more)
            return self.store

        def __exit__(self, *_):
            self.store.end()
            self.folder.cleanup()

    return Within()


def wan_once(wan_mbit=WAN_MBIT):
    """WAN bytes by object bytes, when a node and six machines start in the same second."""
    machines = 6
    with in_store(1, machines, wan_mbit=wan_mbit) as store:
        objects = store.publish(OBJECT_MIB)
        store.order()
        token = store.token()
        started = time.time()
        store.start_node(0, 1, token)
        for n in range(machines):
            store.start_machine(n)
        if time.time() - started > 1:
            raise SystemExit("bench: seven programs did not start in one second")
        files = [f"{store.folder}/m{n}.json" for n in range(machines)]
        wait_for(lambda: all(text(f).strip().endswith("}") for f in files), 600)
        if not all(json.loads(text(f))["verified"] for f in files):
            raise SystemExit("bench: a machine is not verified")
        return store.wan_bytes_at_rest() / objects


def extra_mib(fate, percent, wan_mbit=WAN_MBIT):
    """MiB beyond the objects, and seconds until another fetched, when the fetcher of three nodes is killed or paused."""
    count = 3
    with in_store(count, wan_mbit=wan_mbit) as store:
        objects = store.publish(OBJECT_MIB)
        nodes = [store.start_node(n, count, store.token()) for n in range(count)]
        wait_for(lambda: all(text(n.log).count("connected") >= count - 1 for n in nodes))
        store.order()
        fetches = lambda node: "this node fetches for the site" in text(node.log)
        wait_for(lambda: any(map(fetches, nodes)))
        fetcher = next(n for n in nodes if fetches(n))
        # at the wire: the ledger knows of a byte when its object has ended
        role = f"n{nodes.index(fetcher)}"
        path = f"/sys/class/net/wan{role[1:]}/statistics/tx_bytes"
        sent = lambda: int(subprocess.run(store.inside("hq", ["cat", path]), capture_output=True, check=True).stdout)
        wait_for(lambda: sent() >= objects * percent / 100)
        others = [n for n in nodes if n is not fetcher]
        since = time.time()
        fetcher.process.send_signal(signal.SIGKILL if fate == "killed" else signal.SIGSTOP)
        complete = lambda node: "everything is here" in text(node.log)
        wait_for(lambda: any(map(fetches, others)) or all(map(complete, others)), 120)
        replaced = time.time() - since
        wait_for(lambda: all(map(complete, others)), 300)
        if fate == "paused":
            time.sleep(max(0, PAUSE_SECONDS - (time.time() - since)))
            fetcher.process.send_signal(signal.SIGCONT)
            wait_for(lambda: complete(fetcher), 120)
        extra = (store.wan_bytes_at_rest() - objects) / MIB
        if extra < 0:
            raise SystemExit(f"bench: the ledger lacks {-extra} MiB")
        return extra, replaced


def wan_once_kill():
    """All fates. Paused sites cost nothing while they are paused, so those run side by side."""
    found, threads = {}, []

    def one(fate, percent):
        found[f"{fate} at {percent} %"] = extra_mib(fate, percent)

    for percent in PERCENTS:
        one("killed", percent)
    for percent in PERCENTS:
        threads.append(threading.Thread(target=one, args=("paused", percent)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if len(found) != 2 * len(PERCENTS):
        raise SystemExit("bench: a run failed")
    return found


class Meter:
    """Bytes at the WAN interface, looked at all the time."""

    def __init__(self, store):
        self.store, self.seen, self.goes_on = store, [], True
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def look(self):
        while self.goes_on:
            self.seen.append((time.time(), self.store.received()))
            time.sleep(0.05)

    def end(self):
        self.goes_on = False
        self.thread.join()

    def worst(self, begin, end):
        """The fullest window between two moments, in bytes per second."""
        seen, most, last = [s for s in self.seen if begin <= s[0] <= end], 0.0, 0
        for time_then, bytes_then in seen:
            while last < len(seen) and seen[last][0] < time_then + WINDOW_SECONDS:
                last += 1
            if last == len(seen):
                break
            most = max(most, (seen[last][1] - bytes_then) / (seen[last][0] - time_then))
        return most

    def rate_of_last_second(self):
        end, after = self.seen[-1]
        begin, before = next(s for s in self.seen if s[0] >= end - 1)
        return (after - before) / (end - begin)

    def seconds_until(self, flows, since):
        """Until, over a quarter of a second, bytes came or did not."""
        def there():
            seen = [s for s in self.seen if s[0] >= since]
            for at, (begin, before) in enumerate(seen):
                later = next((s for s in seen[at:] if s[0] >= begin + 0.25), None)
                if later is None:
                    return None
                rate = (later[1] - before) / (later[0] - begin)
                if (rate > BUDGET_BYTES / 20) == flows:
                    return (begin - since,)
            return None

        return wait_for(there, 60)[0]


def wan_budget():
    """The largest excess over the budget in any window, and seconds until pause and resume show on the wire."""
    with in_store(1) as store:
        store.publish(OBJECT_MIB)
        store.ask("site", "set", "store", "--wan", f"00:00-00:00={BUDGET_BYTES * 8 // 1000}kbit")
        store.order()
        meter = Meter(store)
        try:
            before = store.received()
            store.start_node(0, 1, store.token())
            wait_for(lambda: store.received() > before + MIB)
            # from the first byte on: a burst at the beginning counts
            time.sleep(BUDGET_SECONDS)
            worst = meter.worst(meter.seen[0][0], time.time()) / BUDGET_BYTES
            seconds = {}
            for word, flows in (("pause", False), ("resume", True)):
                # what is there already would show nothing
                if (meter.rate_of_last_second() > BUDGET_BYTES / 2) == flows:
                    raise SystemExit(f"bench: before {word} the line is as after it")
                since = time.time()
                store.ask("site", "wan", "store", f"--{word}")
                seconds[word] = meter.seconds_until(flows, since)
                time.sleep(2)
        finally:
            meter.end()
        return worst - 1, seconds, worst


KEYS = ["site.wan_once", "site.wan_once_kill_mib", "site.wan_budget", "site.wan_budget_seconds"]


def rows(keys):
    """Each figure of `keys` as a row."""
    if "site.wan_once" in keys:
        yield once_row()
    if "site.wan_once_kill_mib" in keys:
        yield kill_row()
    if any(key.startswith("site.wan_budget") for key in keys):
        yield from budget_rows()


def once_row():
    runs = [wan_once() for _ in range(3)]
    return {"key": "site.wan_once", "value": round(max(runs), 4), "unit": "x objects", "goal": "<= 1.02",
           "peers": {"every machine for itself": 6.0}, "runs": [round(r, 4) for r in runs]}


def kill_row():
    found = wan_once_kill()
    return {"key": "site.wan_once_kill_mib", "value": round(max(extra for extra, _ in found.values()), 2), "unit": "MiB", "goal": "<= 16",
           "peers": {f"{k}: seconds to the next fetcher": round(s, 1) for k, (_, s) in found.items()},
           "runs": [round(extra, 2) for extra, _ in found.values()]}


def budget_rows():
    excess, seconds, worst = wan_budget()
    yield {"key": "site.wan_budget", "value": round(max(excess, 0.0), 4), "unit": "of the budget", "goal": "<= 0.05",
           "peers": {"fullest 10 s": round(worst, 4)}, "runs": [round(excess, 4)]}
    yield {"key": "site.wan_budget_seconds", "value": round(max(seconds.values()), 2), "unit": "s", "goal": "<= 2",
           "peers": {}, "runs": [round(s, 2) for s in seconds.values()]}


if __name__ == "__main__":
    for row in rows(sys.argv[1:] or KEYS):
        print(json.dumps(row), flush=True)
