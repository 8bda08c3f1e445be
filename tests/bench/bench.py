#!/usr/bin/env python3
"""Measurements as a table and as JSON: ./dev bench [chain|site|trust|hq|KEY...] [--quick] [--json FILE].

Every figure is a ratio within one run or a peak of memory, because machines are shared and noisy. Needs root for network namespaces
(chain.agent); everything is made in a temporary folder and ended by process id."""

import atexit
import importlib.util
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

BIN = os.environ["LAMPLIGHTER_BIN_DIR"]
CACHE = os.environ["LAMPLIGHTER_CACHE"]
LAMPLIGHTER, AGENT = f"{BIN}/lamplighter", f"{BIN}/lamplighter-agent"
CORES = os.cpu_count()
MIB = 1 << 20
RUNS = 3


class Watched:
    """A program whose memory is looked at while it runs, and whose CPU time is known when it has ended."""

    def __init__(self, command, log, **more):
        self.out = open(log, "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out, **more)
        # also when the measurement breaks off
        atexit.register(self.end)
        self.peak_mib = 0.0
        threading.Thread(target=self.look, daemon=True).start()

    def look(self):
        while self.process.poll() is None:
            self.peak_mib = max(self.peak_mib, rss_mib(self.process.pid))
            time.sleep(0.02)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def rss_mib(pid):
    """RssAnon and RssShmem: pages of a mapped file do not count, the kernel takes them back when it needs them."""
    try:
        with open(f"/proc/{pid}/status") as status:
            lines = [line.split() for line in status if line.startswith(("RssAnon", "RssShmem"))]
        return sum(int(line[1]) for line in lines) / 1024
    except (OSError, ValueError):
        return 0.0


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(what, seconds=120):
    end = time.time() + seconds
    while time.time() < end:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise SystemExit("bench: a program did not get there in time")


def text(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


class Chain:
    """HQ, one site with the rule admit, and one node; in network namespaces when asked for."""

    def __init__(self, folder, namespaces=None, listen="127.0.0.1:8443"):
        self.folder = folder
        self.namespaces = namespaces
        self.listen = listen
        self.start_hq()
        self.token = self.ask("site", "add", "bench", "--unknown", "admit")["token"]
        self.node = None

    def start_hq(self):
        env = dict(os.environ, XDG_RUNTIME_DIR=self.folder, LAMPLIGHTER_LOG="info")
        log = f"{self.folder}/hq.log"
        self.hq = Watched(self.inside(0, [LAMPLIGHTER, "hq", "--dir", f"{self.folder}/hq", "--listen", self.listen]), log, env=env)
        wait_for(lambda: "listening" in text(log))

    def inside(self, n, command):
        return ["ip", "netns", "exec", self.namespaces[n], *command] if self.namespaces else command

    def ask(self, *command):
        whole = self.inside(0, [LAMPLIGHTER, *command, "--json", "--token-file", f"{self.folder}/hq/admin-token"])
        done = subprocess.run(whole, capture_output=True, env=dict(os.environ, LAMPLIGHTER_LOG="error"))
        if done.returncode:
            raise SystemExit(f"bench: {' '.join(command)}: {done.stderr.decode()}")
        return json.loads(done.stdout)

    def import_image(self, image):
        """Seconds, and the peak of memory of the command."""
        command = self.inside(0, [LAMPLIGHTER, "image", "import", image, "--name", "bench", "--json", "--token-file", f"{self.folder}/hq/admin-token"])
        started = time.time()
        importer = Watched(command, f"{self.folder}/import.json", env=dict(os.environ, LAMPLIGHTER_LOG="error"))
        if importer.process.wait():
            raise SystemExit(f"bench: import: {text(self.folder + '/import.json')}")
        seconds = time.time() - started
        out = text(f"{self.folder}/import.json")
        return seconds, importer.peak_mib, json.loads(out[out.index("{"):])

    def start_node(self, address, slab_bytes):
        log = f"{self.folder}/node.log"
        configure_node(f"{self.folder}/node")
        command = [LAMPLIGHTER, "node", "--dir", f"{self.folder}/node", "--enrol", self.token, "--boot", "off", "--no-beacons",
                   "--listen", address, "--slab-bytes", str(slab_bytes)]
        self.node = Watched(self.inside(0, command), log)
        wait_for(lambda: "a version is complete" in text(log), 300)

    def agent(self, n, name, node):
        command = [AGENT, "image", "--to", f"{self.folder}/{name}.raw", "--node", node, "--json", f"{self.folder}/{name}.json"]
        return Watched(self.inside(n, command), f"{self.folder}/{name}.log")

    def end(self):
        for program in (self.node, self.hq):
            if program:
                program.end()


def configure_node(folder):
    """Its neighbours are programs on the same computer here: a node that gives way to them would measure itself."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(f"{folder}/node.toml", "w") as config:
        config.write("uploads_give_way = false\n")


def median(values):
    return sorted(values)[len(values) // 2]


# with these an image is as large as a till's or an office computer's: 1.5 GB of content
OFFICE = dict(EXTRA="python3,git,gcc,nginx-light,chromium,libreoffice-writer-nogui", ROOT_MIB="3072")


def debian_image(name="debian", **more):
    image = f"{CACHE}/{name}.raw"
    if not os.path.exists(image):
        subprocess.run(["./dev", "image", image], check=True, env=dict(os.environ, **more))
    return image


def bench_import(folder, results):
    image = debian_image()
    ours, zstd, peak = [], [], 0
    for run in range(RUNS):
        home = f"{folder}/import{run}"
        os.mkdir(home)
        chain = Chain(home)
        subprocess.run(["cat", image], stdout=subprocess.DEVNULL, check=True)
        started = time.time()
        subprocess.run(["zstd", "-3", f"-T{CORES}", "-q", "-f", image, "-o", f"{home}/zst"], check=True)
        zstd.append(time.time() - started)
        seconds, mib, _ = chain.import_image(image)
        ours.append(seconds)
        peak = max(peak, mib, chain.hq.peak_mib)
        chain.end()
        shutil.rmtree(home)
    ratio = median(zstd) / median(ours)
    results.append({"key": "chain.import", "value": round(ratio, 3), "unit": "x zstd", "goal": ">= 0.8",
                    "peers": {"zstd -3": round(median(zstd), 2), "lamplighter": round(median(ours), 2)}, "runs": RUNS})
    results.append({"key": "chain.import_rss_mib", "value": round(peak, 1), "unit": "MiB", "goal": "<= 256", "peers": {}, "runs": RUNS})


def disk_rate(folder):
    path = f"{folder}/rate"
    started = time.time()
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=512", "oflag=direct", "conv=fsync", "status=none"], check=True)
    seconds = time.time() - started
    os.remove(path)
    return 512 * MIB / seconds


def link_rate(namespaces):
    """Bytes per second of one TCP stream between the namespaces."""
    code = ("import socket,time\ns=socket.create_server(('10.79.0.1',5001))\nc,_=s.accept()\nb=bytearray(1<<20)\nn=0\nt=time.time()\n"
            "while True:\n r=c.recv_into(b)\n if not r: break\n n+=r\nprint(n/(time.time()-t))")
    server = subprocess.Popen(["ip", "netns", "exec", namespaces[0], "python3", "-c", code], stdout=subprocess.PIPE)
    time.sleep(0.5)
    client = "import socket\nc=socket.create_connection(('10.79.0.1',5001))\nb=bytes(1<<20)\nfor _ in range(1024): c.sendall(b)"
    subprocess.run(["ip", "netns", "exec", namespaces[1], "python3", "-c", client], check=True)
    return float(server.communicate()[0])


def make_namespaces():
    names = [f"lb{os.getpid()}a", f"lb{os.getpid()}b"]
    ip = lambda *a: subprocess.run(["ip", *a], check=True)
    for name in names:
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", "e0", "netns", names[0], "type", "veth", "peer", "name", "e0", "netns", names[1])
    for n, name in enumerate(names):
        ip("-n", name, "addr", "add", f"10.79.0.{n + 1}/24", "dev", "e0")
        ip("-n", name, "link", "set", "e0", "up")
    return names


def bench_agent(folder, results):
    small, _, _ = measure_agent(folder, debian_image())
    ratio, peak, terms = measure_agent(folder, debian_image("debian-office", **OFFICE))
    results.append({"key": "chain.agent", "value": round(ratio, 3), "unit": "x bound", "goal": ">= 0.8",
                    "peers": {k: round(v, 3) for k, v in terms.items()} | {"ratio of a small image": round(small, 3)}, "runs": RUNS})
    results.append({"key": "chain.agent_rss_mib", "value": round(peak, 1), "unit": "MiB", "goal": "<= 256", "peers": {}, "runs": RUNS})


def measure_agent(folder, image):
    """The bound divided by the time that imaging took, the peak of the agent's memory, and the terms of the last run."""
    names = make_namespaces()
    try:
        rate_link, values, peak, terms = link_rate(names), [], 0, {}
        for run in range(RUNS):
            home = f"{folder}/agent{run}"
            os.mkdir(home)
            chain = Chain(home, names)
            imported = chain.import_image(image)[2]
            chain.ask("order", "add", "--site", "bench", "--version", "bench")
            chain.start_node("10.79.0.1:4433", imported["object_bytes"] * 2)
            node_cpu = cpu_seconds(chain.node.process.pid)
            rate_disk = disk_rate(home)
            before = os.times()
            started = time.time()
            agent = chain.agent(1, "a", "10.79.0.1:4433")
            if agent.process.wait():
                raise SystemExit(text(f"{home}/a.log"))
            outcome = json.loads(text(f"{home}/a.json"))
            after = os.times()
            cpu = (after.children_user - before.children_user) + (after.children_system - before.children_system)
            cpu += cpu_seconds(chain.node.process.pid) - node_cpu
            terms = {"C/link": imported["object_bytes"] / rate_link, "U/disk": imported["used_bytes"] / rate_disk, "cpu/cores": cpu / CORES}
            values.append(max(terms.values()) / outcome["seconds"])
            peak = max(peak, agent.peak_mib)
            terms["seconds"], terms["wall"] = outcome["seconds"], time.time() - started
            chain.end()
            shutil.rmtree(home)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)
    return median(values), peak, terms


def make_big(path):
    """6 GiB: 2 GiB incompressible, 2 GiB of text-like content, 2 GiB empty."""
    source = random.Random(6)
    noise = source.randbytes(64 * MIB)
    with open(path, "wb") as file:
        file.truncate(6 << 30)
        for n in range(32):
            # shifted by a different amount each time, or the chunks would be the same
            file.write(noise[n * 1021 :] + noise[: n * 1021])
        for n in range(2048):
            word = b"line %08d of till log: sold, paid, printed\n" % n
            file.write((word * (MIB // len(word) + 1))[:MIB])


def bench_big(folder, results):
    home = f"{folder}/big"
    os.mkdir(home)
    image = f"{home}/big.raw"
    make_big(image)
    chain = Chain(home)
    seconds, import_mib, imported = chain.import_image(image)
    chain.ask("order", "add", "--site", "bench", "--version", "bench")
    chain.start_node("127.0.0.1:14433", imported["object_bytes"] * 2)
    started = time.time()
    agents = [chain.agent(0, name, "127.0.0.1:14433") for name in ("a", "b")]
    for agent in agents:
        if agent.process.wait():
            raise SystemExit(text(f"{home}/a.log") + text(f"{home}/b.log"))
    same = all(subprocess.run(["cmp", "-s", image, f"{home}/{name}.raw"]).returncode == 0 for name in ("a", "b"))
    peaks = {"import": import_mib, "hq": chain.hq.peak_mib, "node": chain.node.peak_mib, "agents": max(a.peak_mib for a in agents)}
    peaks |= {"import_seconds": seconds, "agents_seconds": time.time() - started, "verified": float(same)}
    chain.end()
    shutil.rmtree(home)
    value = max(peaks[k] for k in ("import", "hq", "node", "agents")) if same else float("inf")
    results.append({"key": "chain.big", "value": round(value, 1), "unit": "MiB", "goal": "<= 256",
                    "peers": {k: round(v, 1) for k, v in peaks.items()}, "runs": 1})


AREAS = {"chain": [bench_import, bench_agent, bench_big]}
HERE = os.path.dirname(os.path.abspath(__file__))


def show(row):
    print(f"{row['key']:24} {row['value']:>10} {row['unit']:14} goal {row['goal']:8} {row['peers']}", flush=True)


def beside(name):
    """A file of this folder as a module; `site` would be Python's own."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", f"{HERE}/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def bench_site(keys, quick):
    """A store's network, and its WAN; `keys` is `site` for all, or some of them."""
    site, wan, sim, spread = beside("site"), beside("wan"), beside("sim"), beside("spread")
    others = [*wan.KEYS, *sim.KEYS, *spread.KEYS]
    of_network = [k for k in keys if k not in others]
    rows = site.rows(of_network, quick) if of_network else []
    keys = [*keys, *others] if "site" in keys else keys
    for row in itertools.chain(wan.rows(keys), sim.rows(keys), spread.rows(keys, quick)):
        show(row)
        rows.append(row)
    return rows


def main():
    arguments = sys.argv[1:]
    out = None
    if "--json" in arguments:
        at = arguments.index("--json")
        out = arguments[at + 1]
        del arguments[at : at + 2]
    quick = "--quick" in arguments
    asked = [a for a in arguments if a != "--quick"] or [*AREAS, "site", "trust", "hq"]
    of_site = [a for a in asked if a.split(".")[0] == "site"]
    of_trust = [a for a in asked if a.split(".")[0] == "trust"]
    of_hq = [a for a in asked if a.split(".")[0] == "hq"]
    areas = [a for a in asked if a not in [*of_site, *of_trust, *of_hq]]
    unknown = [a for a in areas if a not in AREAS]
    if unknown:
        raise SystemExit(f"bench: no area {unknown[0]}; there is {', '.join(AREAS)}, site, trust, hq")
    results = []
    with tempfile.TemporaryDirectory(prefix="lamplighter-bench-", dir=CACHE) as folder:
        for area in areas:
            for bench in AREAS[area]:
                bench(folder, results)
                line = results[-2:] if bench is not bench_big else results[-1:]
                for r in line:
                    show(r)
    if of_site:
        results += bench_site(of_site, quick)
    if of_trust:
        rows = beside("trust").rows(of_trust, quick)
        for made in rows:
            show(made)
        results += rows
    if of_hq:
        parts = [beside("hq"), beside("fleet"), beside("page")]
        known = [key for part in parts for key in part.KEYS]
        if unknown := [key for key in of_hq if key not in [*known, "hq"]]:
            raise SystemExit(f"bench: no key {unknown[0]}; there is {', '.join(known)}")
        wanted = known if "hq" in of_hq else of_hq
        made_of_hq = [part.rows(wanted, quick) for part in parts if set(part.KEYS) & set(wanted)]
        for made in itertools.chain(*made_of_hq):
            show(made)
            results.append(made)
    if out:
        with open(out, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
