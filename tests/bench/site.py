#!/usr/bin/env python3
"""A store's network at the limit of its links, beside what a user would pick instead: ./dev bench site [--json FILE].

    python3 tests/bench/site.py [KEY...] [--quick] [--json FILE]        KEY: site or site.n4, site.late, ...

One source and N receivers in namespaces behind a switch, each link shaped both ways; the clock runs from the start of all receivers
until the last one has its copy (ours: on the disk and read back), and each copy is compared afterwards. Needs root.

What this computer cannot carry, and what is done about it: README.md beside this file.

Debian packages: iproute2 procps nginx-light curl aria2 python3-libtorrent udpcast zstd."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
os.environ.setdefault("LAMPLIGHTER_BIN_DIR", f"{ROOT}/target/x86_64-unknown-linux-gnu/release")
os.environ.setdefault("LAMPLIGHTER_CACHE", f"{ROOT}/.cache")
# the project's folder stays as it is
sys.dont_write_bytecode = True
# a package cannot be named `site` as Python's own module is, so the folder's files are modules of their own
sys.path[:0] = [HERE, f"{HERE}/site"]

from bench import CACHE, MIB, debian_image, median  # noqa: E402
from breakdown import breakdown, explain  # noqa: E402
from memory import memory_folders  # noqa: E402
from network import Network  # noqa: E402
from others import SYSTEM_PYTHON, Others  # noqa: E402
from ours import Ours  # noqa: E402

RUNS = 2
UNSHAPED_RUNS = 3
UDPCAST_PERCENTS = (95, 99)
# receivers: (Mbit/s of each link, MiB, goal)
WAVES = {1: (200, 1024, 1.065), 2: (200, 1024, 1.075), 4: (200, 1024, 1.065), 8: (100, 512, 1.08)}
SOURCE_COPIES_GOAL = 1.08
LATE_GOAL, LATE_OTHERS_GOAL = 1.07, 1.02
SLOW_GOAL, SLOW_FACTOR = 1.05, 0.1
LIAR_GOAL = 1.05
IMAGE_GOAL, IMAGE_PACKED_GOAL = 0.30, 1.00
CPU_GOAL, WRITE_CPU_GOAL, JUMBO_GOAL = 1.0, 0.1, 1.0
JUMBO_MTU, ETHERNET_MTU = 9000, 1500
PACKAGES = {"ip": "iproute2", "tc": "iproute2", "sysctl": "procps", "nginx": "nginx-light", "curl": "curl", "aria2c": "aria2",
            "udp-sender": "udpcast", "zstd": "zstd", "cmp": "diffutils"}
# with less of this computer idle in every run, the cores and not the links set the pace
IDLE_MIN = 0.05
# a receiver holds its copy and the objects that it serves; the source the file, HQ's objects and a slab
MEMORY_SPARE_MIB = 2048
BLOCK_BYTES = 4096


class Session:
    """What the measurements of one call share: folders in memory, files, and the undisturbed runs that others are compared with."""

    def __init__(self, ours, others, quick):
        self.ours, self.others, self.quick = ours, others, quick
        self.waves = {}
        self.unshaped = None
        self.count = 0

    def place(self, name):
        """A path in the folder for ours, and one in the folder for the others; Ours and Others make them."""
        self.count += 1
        return f"{self.ours}/{name}{self.count}", f"{self.others}/{name}{self.count}"

    def mib(self, full):
        return full // 4 if self.quick else full

    def noise(self, mib):
        """A file of random bytes, made once for each size."""
        path = f"{self.others}/noise{mib}/file.bin"
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path))
            with open(path, "wb") as out:
                for _ in range(mib):
                    out.write(os.urandom(MIB))
        return path

    def wave(self, n):
        """Rate, file and bytes of the usual wave of N receivers."""
        rate, mib, _ = WAVES[n]
        file = self.noise(self.mib(mib))
        room(self.mib(mib) * (2 * n + 4))
        return rate, file, os.path.getsize(file)

    def undisturbed(self, n):
        """Runs of ours with N receivers; one, if nobody measured it before."""
        if n not in self.waves:
            measure_plain(self, n, 1)
        return self.waves[n]


def room(mib):
    with open("/proc/meminfo") as info:
        available = next(int(line.split()[1]) // 1024 for line in info if line.startswith("MemAvailable"))
    if available < mib + MEMORY_SPARE_MIB:
        raise SystemExit(f"site: {mib + MEMORY_SPARE_MIB} MiB of memory are needed for the copies, {available} are free")


def limit(file_bytes, rate_mbit, copies=1):
    """Longer than anything that still makes sense."""
    return 60 + 3 * copies * file_bytes * 8 / (rate_mbit * 1e6)


def shown(run, name, file_bytes, rate):
    """One wave of ours, told to the reader and kept for the row."""
    entry = breakdown(run, file_bytes, rate)
    print(explain(name, entry), flush=True)
    return {"who": "lamplighter", "ratio": round(entry["seconds"] / entry["size_over_rate"], 4), **entry}


def measure_other(who, transfer, bound, file_bytes, **more):
    """One transfer by another program."""
    done = transfer()
    last = max(done.race.finished.values())
    more |= {"source_copies": round(done.source_bytes / file_bytes, 3), "cores_idle": round(done.race.idle, 2), "tcp": done.tcp}
    entry = {"who": who, "seconds": round(last, 3), "ratio": round(last / bound, 4), **more}
    print(f"  {who}: {last:.2f} s = {last / bound:.4f} x {bound:.2f} s {more}", flush=True)
    return entry


def best(runs, who):
    return min((r["ratio"] for r in runs if r["who"].startswith(who)), default=None)


def row(session, key, value, unit, goal, peers, runs):
    made = {"key": key, "value": None if value is None else round(value, 3), "unit": unit, "goal": goal,
            "peers": {name: round(v, 3) for name, v in peers.items()}, "runs": runs}
    idle = [r["cores_idle"] for r in runs if r.get("who") == "lamplighter"]
    if idle and max(idle) < IDLE_MIN:
        made["starved"] = True
    return made | ({"quick": True} if session.quick else {})


def measure_plain(session, n, runs=RUNS):
    rate, file, file_bytes = session.wave(n)
    with Network(n, rate) as network:
        place, _ = session.place(f"n{n}-")
        ours = Ours(network, place, file)
        entries = [shown(ours.run(limit(file_bytes, rate)), f"ours N={n}", file_bytes, rate) for _ in range(runs)]
    shutil.rmtree(place)
    session.waves[n] = entries
    return entries


def wave_row(session, n, runs, peers):
    goal = WAVES[n][2]
    return row(session, f"site.n{n}", best(runs, "lamplighter"), "x size/rate", f"<= {goal}", peers, runs)


def measure_wave(n):
    return lambda session: [wave_row(session, n, measure_plain(session, n), {})]


def measure_n4(session):
    """In turns, so that a busy minute of this computer does not fall on one of them alone."""
    n = 4
    rate, file, file_bytes = session.wave(n)
    bound = file_bytes * 8 / (rate * 1e6)
    within, runs = limit(file_bytes, rate), []
    with Network(n, rate) as network:
        place, other_place = session.place("n4-")
        ours = Ours(network, place, file)
        others = Others(network, f"{other_place}/random", file, within)
        for turn in range(RUNS):
            runs.append(shown(ours.run(within), f"ours N={n}", file_bytes, rate))
            for who in ("libtorrent", "aria2"):
                runs.append(measure_other(who, getattr(others, who), bound, file_bytes))
            percent = UDPCAST_PERCENTS[turn]
            runs.append(measure_other(f"udpcast {percent} %", lambda: others.udpcast(percent), bound, file_bytes))
        small = session.noise(session.mib(1024) // 4)
        small_bytes = os.path.getsize(small)
        nginx = Others(network, f"{other_place}/nginx", small, limit(small_bytes, rate, n))
        runs.append(measure_other("nginx+curl", nginx.nginx, small_bytes * 8 / (rate * 1e6), small_bytes, note="a quarter of the size"))
    shutil.rmtree(place)
    shutil.rmtree(other_place)
    session.waves[n] = [r for r in runs if r["who"] == "lamplighter"]
    peers = {who: best(runs, who) for who in ("nginx+curl", "aria2", "libtorrent", "udpcast")}
    return [wave_row(session, n, runs, peers)]


def measure_source_copies(session):
    """Of the same runs that gave the figures of N=4 and N=8."""
    runs = [min(session.undisturbed(n), key=lambda r: r["ratio"]) for n in (4, 8)]
    by_wave = {f"N={n}": run["source_copies"] for n, run in zip((4, 8), runs)}
    entries = [{"wave": wave, "source_copies": run["source_copies"], "source_copies_tx_bytes": run["source_copies_tx_bytes"]}
               for wave, run in zip(by_wave, runs)]
    return [row(session, "site.source_copies", max(by_wave.values()), "x file", f"<= {SOURCE_COPIES_GOAL}", by_wave, entries)]


def measure_late(session):
    n = 4
    usual = min(r["seconds"] for r in session.undisturbed(n))
    rate, file, file_bytes = session.wave(n)
    bound = file_bytes * 8 / (rate * 1e6)
    with Network(n, rate) as network:
        place, _ = session.place("late-")
        run = Ours(network, place, file).run(limit(file_bytes, rate), delays={n: usual / 2})
    shutil.rmtree(place)
    entry = shown(run, "ours, one joins at half time", file_bytes, rate)
    joined = run.finished[n] - run.joined[n]
    others = max(at for receiver, at in run.finished.items() if receiver != n) / usual
    print(f"  the late one {joined:.2f} s = {joined / bound:.4f} x; the others {others:.4f} x an undisturbed run "
          f"(at most {LATE_OTHERS_GOAL})", flush=True)
    entry |= {"late_ratio": round(joined / bound, 4), "others_ratio": round(others, 4), "others_goal": f"<= {LATE_OTHERS_GOAL}"}
    return [row(session, "site.late", joined / bound, "x size/rate", f"<= {LATE_GOAL}", {"others x undisturbed": others}, [entry])]


def measure_slow_peer(session):
    n = 8
    usual = min(r["seconds"] for r in session.undisturbed(n))
    rate, file, file_bytes = session.wave(n)
    with Network(n, rate) as network:
        network.shape(n, rate * SLOW_FACTOR)
        place, _ = session.place("slow-")
        run = Ours(network, place, file).run(limit(file_bytes, rate), awaited=range(1, n))
    shutil.rmtree(place)
    entry = shown(run, "ours, one link at a tenth", file_bytes, rate)
    return [row(session, "site.slow_peer", run.seconds() / usual, "x without it", f"<= {SLOW_GOAL}", {"seconds without it": usual}, [entry])]


def measure_liar(session):
    """Our agent cannot lie: another program has to be given, which takes the agent's arguments and serves wrong bytes."""
    program = os.environ.get("LAMPLIGHTER_LIAR")
    if not program:
        print("  site.liar is left out: LAMPLIGHTER_LIAR names no program that lies", flush=True)
        return []
    n = 4
    usual = min(r["seconds"] for r in session.undisturbed(n))
    rate, file, file_bytes = session.wave(n)
    with Network(n, rate) as network:
        place, _ = session.place("liar-")
        run = Ours(network, place, file).run(limit(file_bytes, rate), awaited=range(1, n), programs={n: program})
    shutil.rmtree(place)
    entry = shown(run, "ours, one of them lies", file_bytes, rate)
    return [row(session, "site.liar", run.seconds() / usual, "x without it", f"<= {LIAR_GOAL}", {"seconds without it": usual}, [entry])]


def used_blocks(image, path):
    """Only the blocks that are not zero, as EZIO sends an image."""
    empty = bytes(BLOCK_BYTES)
    with open(image, "rb") as source, open(path, "wb") as out:
        while piece := source.read(MIB):
            blocks = (piece[at : at + BLOCK_BYTES] for at in range(0, len(piece), BLOCK_BYTES))
            out.writelines(block for block in blocks if block != empty[: len(block)])
    return path


def measure_image(session):
    """A real Debian image to disk files; both keys come from the same runs."""
    n, rate = 4, 200
    image = debian_image()
    room(os.path.getsize(image) // MIB * (2 * n + 2))
    _, other_place = session.place("image-")
    os.makedirs(f"{other_place}/files")
    used, packed = used_blocks(image, f"{other_place}/files/used.bin"), f"{other_place}/files/packed.zst"
    subprocess.run(["zstd", "-3", "-qf", image, "-o", packed], check=True)
    sizes = {"used_mib": os.path.getsize(used) // MIB, "packed_mib": os.path.getsize(packed) // MIB}
    bound, within = os.path.getsize(packed) * 8 / (rate * 1e6), limit(os.path.getsize(used), rate, 2)
    with Network(n, rate) as network:
        # small pages for ours as well: a sparse disk would clear a huge page for each few kilobytes
        ours = Ours(network, f"{other_place}/ours", image)
        sizes["object_mib"] = ours.object_bytes // MIB
        print(f"  {sizes}; ratios here are over the packed image's size/rate", flush=True)
        raw, zstd = Others(network, f"{other_place}/raw", used, within), Others(network, f"{other_place}/packed", packed, within)
        runs = []
        for turn in range(RUNS):
            entry = shown(ours.run(within), "ours, a Debian image", ours.object_bytes, rate)
            runs.append(entry | {"ratio": round(entry["seconds"] / bound, 4)})
            percent = UDPCAST_PERCENTS[turn]
            transfers = {"libtorrent raw": raw.libtorrent, "libtorrent packed": lambda: zstd.libtorrent_packed(image),
                         f"udpcast packed {percent} %": lambda: zstd.udpcast_packed(percent, image)}
            for who, transfer in transfers.items():
                runs.append(measure_other(who, transfer, bound, os.path.getsize(used if who.endswith("raw") else packed)))
    shutil.rmtree(other_place)
    mine = best(runs, "lamplighter")
    figures = {who: best(runs, who) for who in ("libtorrent raw", "libtorrent packed", "udpcast packed")}
    seconds = {f"{who} s": ratio * bound for who, ratio in {"lamplighter": mine, **figures}.items()}
    other_packed = min(figures["libtorrent packed"], figures["udpcast packed"])
    runs.append(sizes)
    return [row(session, "site.image_n4", mine / figures["libtorrent raw"], "x libtorrent", f"<= {IMAGE_GOAL}", seconds, runs),
            row(session, "site.image_n4_packed", mine / other_packed, "x best packed", f"<= {IMAGE_PACKED_GOAL:.2f}", seconds, runs)]


def cpu_per_gb(run, file_bytes):
    """CPU seconds for each GB: of the network's threads, which receive and hash; of the writer's by what they do; of the source."""
    gb = file_bytes / 1e9
    spent = {"network": run.cpu[1]["network"], "all": run.cpu[1]["all"], "source": run.cpu[0]["all"], **run.writer_cpu[1]}
    return {f"{name}_per_gb": round(seconds / gb, 3) for name, seconds in spent.items()}


def unshaped(session):
    """One receiver and no shaping, ordinary and jumbo frames in turns. Both keys below come from these runs."""
    if session.unshaped is None:
        file = session.noise(session.mib(1024))
        file_bytes = os.path.getsize(file)
        session.unshaped = []
        with Network(1) as network, tempfile.TemporaryDirectory(dir=CACHE) as disks:
            place, _ = session.place("unshaped-")
            ours = Ours(network, place, file)
            # memory as a disk for what the network takes, a real one for what writing takes: to memory it is a copy
            for mtu, disk in ((ETHERNET_MTU, None), (JUMBO_MTU, None), (ETHERNET_MTU, disks)) * UNSHAPED_RUNS:
                network.set_mtu(mtu)
                run = ours.run(600, disks=disk)
                entry = {"mtu": mtu, "disk": disk is not None, "seconds": round(run.seconds(), 3), **cpu_per_gb(run, file_bytes)}
                print(f"  ours, unshaped: {entry}", flush=True)
                session.unshaped.append(entry)
        shutil.rmtree(place)
    return session.unshaped


def of_mtu(runs, mtu, field, disk=False):
    return median([r[field] for r in runs if r["mtu"] == mtu and r["disk"] == disk])


def measure_receive_cpu(session):
    runs = unshaped(session)
    parts = {name: of_mtu(runs, ETHERNET_MTU, f"{name}_per_gb") for name in ("keep", "unpack", "read_back", "source")}
    write = of_mtu(runs, ETHERNET_MTU, "write_per_gb", disk=True)
    parts = {f"write (goal <= {WRITE_CPU_GOAL})": write} | parts
    return [row(session, "site.receive_cpu", of_mtu(runs, ETHERNET_MTU, "network_per_gb"), "CPU s/GB", f"<= {CPU_GOAL}", parts, runs)]


def measure_jumbo(session):
    runs = unshaped(session)
    ordinary, jumbo = of_mtu(runs, ETHERNET_MTU, "seconds"), of_mtu(runs, JUMBO_MTU, "seconds")
    seconds = {f"{ETHERNET_MTU} s": ordinary, f"{JUMBO_MTU} s": jumbo}
    return [row(session, "site.jumbo", jumbo / ordinary, f"x {ETHERNET_MTU}", f"<= {JUMBO_GOAL}", seconds, runs)]


# keys by the measurement that gives them; those that compare with an undisturbed run come after it
MEASUREMENTS = [
    (("site.n1",), measure_wave(1)),
    (("site.n2",), measure_wave(2)),
    (("site.n4",), measure_n4),
    (("site.n8",), measure_wave(8)),
    (("site.source_copies",), measure_source_copies),
    (("site.image_n4", "site.image_n4_packed"), measure_image),
    (("site.late",), measure_late),
    (("site.slow_peer",), measure_slow_peer),
    (("site.liar",), measure_liar),
    (("site.receive_cpu",), measure_receive_cpu),
    (("site.jumbo",), measure_jumbo),
]
KEYS = [key for keys, _ in MEASUREMENTS for key in keys]


def missing_packages():
    # nginx is in /usr/sbin, which is not on everybody's path
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = {package for program, package in PACKAGES.items() if not shutil.which(program, path=path)}
    if subprocess.run([SYSTEM_PYTHON, "-c", "import libtorrent"], capture_output=True).returncode:
        missing.add("python3-libtorrent")
    return sorted(missing)


def show(made):
    value = "-" if made["value"] is None else made["value"]
    remarks = "".join(f" ({mark})" for mark in ("quick", "starved") if made.get(mark))
    print(f"{made['key']:24} {value:>10} {made['unit']:14} goal {made['goal']:8} {made['peers']}{remarks}", flush=True)


def rows(keys, quick):
    """Measures `keys` (`site` is all of them) and returns their rows, printing each as it is known."""
    unknown = [key for key in keys if key != "site" and key not in KEYS]
    if unknown:
        raise SystemExit(f"site: no key {unknown[0]}; there is {', '.join(KEYS)}")
    missing = missing_packages()
    if missing:
        raise SystemExit(f"site: Debian packages are missing: {' '.join(missing)}")
    # N machines have cores of their own: whatever else this computer does must not take those of any program that is measured
    os.nice(-10)
    wanted = KEYS if "site" in keys else keys
    made = []
    # ended by a signal, the namespaces go as well
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("site: ended by a signal"))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit("site: ended by a signal"))
    with memory_folders() as folders:
        session = Session(*folders, quick)
        for names, measure in MEASUREMENTS:
            if any(name in wanted for name in names):
                print(f"== {' '.join(names)}", flush=True)
                for measured in measure(session):
                    if measured["key"] in wanted:
                        made.append(measured)
                        show(measured)
    return made


def main():
    arguments = sys.argv[1:]
    out = None
    if "--json" in arguments:
        at = arguments.index("--json")
        out = os.path.abspath(arguments[at + 1])
        del arguments[at : at + 2]
    quick = "--quick" in arguments
    keys = [a for a in arguments if a != "--quick"] or ["site"]
    # ./dev makes the image, and is called from the project's folder
    os.chdir(ROOT)
    os.makedirs(CACHE, exist_ok=True)
    made = rows(keys, quick)
    print()
    for measured in made:
        show(measured)
    if out:
        with open(out, "w") as file:
            json.dump(made, file, indent=1)


if __name__ == "__main__":
    main()
