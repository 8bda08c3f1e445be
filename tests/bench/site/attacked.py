"""Programs that strangers attack: a node with all its ports, and HQ. Used by ../trust.py.

Holds how victims and attackers are started and what they cost; never which attacks there are, nor how a figure is judged.

What the attacker needs by itself is not to be measured, for it has a computer of its own. So it runs at the lowest priority but four: it
gets what the others leave. What it sends in packets has a rate, and the undisturbed runs beside it have the same packets, sent
to a port where nobody is: the links and this computer's kernel carry them just so. What differs is the victim's."""

import contextlib
import dataclasses
import json
import os
import subprocess
import threading
import time

from bench import CACHE, LAMPLIGHTER, MIB, Chain, Watched, configure_node, cpu_seconds, rss_mib, text, wait_for

from network import address
from ours import Ours
from race import alone

ATTACKER, MACHINE = 2, 1
ADDRESSES = [f"10.77.0.{200 + n}" for n in range(32)]
GROUP_LEAD_SECONDS, LEAD_SECONDS = 4, 2
# no attack outlives what it disturbs
ATTACK_SECONDS = 600
# what the boot bundle may take
BUNDLE_BYTES_MAX = 256 * MIB
NOBODY = 4999


@dataclasses.dataclass(frozen=True)
class Attack:
    """`mode` of examples/stranger of peer-cache-node, the port, and packets in a second while a machine is imaged."""

    mode: str
    port: int
    rate: int = 0
    # ... and so many while it is measured what each of them costs; as many as come otherwise
    gently: int = 0

    def at(self, rate):
        return f"{self.mode}@{rate}" if rate else self.mode

    def to_nobody(self):
        return dataclasses.replace(self, port=NOBODY)


class Peak:
    """The most memory of its own that a program had while this was open."""

    def __init__(self, pid):
        self.pid, self.mib, self.ended = pid, rss_mib(pid), threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self):
        while not self.ended.wait(0.02):
            self.mib = max(self.mib, rss_mib(self.pid))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def stranger(network, mode, port, seconds, addresses=ADDRESSES):
    command = [os.environ["LAMPLIGHTER_STRANGER"], mode, f"{address(0)}:{port}", str(seconds), *addresses]
    return subprocess.Popen(network.inside(ATTACKER, ["nice", "-n", "15", *command]), stdout=subprocess.PIPE, text=True)


def through(program, mode):
    """How often one that has had its time got through."""
    said, _ = program.communicate(timeout=120)
    if program.returncode:
        raise SystemExit(f"trust: stranger {mode} ended with {program.returncode}")
    return json.loads(said.splitlines()[-1])["through"]


@contextlib.contextmanager
def under(network, attack):
    program = stranger(network, attack.at(attack.rate), attack.port, ATTACK_SECONDS)
    try:
        # who attacks by beacons listens for one first
        time.sleep(GROUP_LEAD_SECONDS if attack.mode.startswith("beacon") else LEAD_SECONDS)
        yield
        # one that ended attacked nobody
        if program.poll() is not None:
            raise SystemExit(f"trust: stranger {attack.mode} ended with {program.returncode} before it was told to")
    finally:
        program.terminate()
        program.wait()


class Victim:
    """`restart` begins anew what is attacked, `pid` says which program that is, `image` is a wave of its honest user."""

    def wave(self, attack):
        """Seconds until the honest one has everything, and the victim's peak of memory."""
        with contextlib.ExitStack() as attacked:
            peaks = []

            def restarted():
                """The attack begins when the victim is up, and before its user is."""
                peaks.append(attacked.enter_context(Peak(self.pid())))
                if attack:
                    attacked.enter_context(under(self.network, attack))

            return self.image(restarted), peaks[0].mib

    def cost(self, attack, seconds):
        """What the attack costs while nobody else is there: memory, CPU for what got through, bytes out for bytes in."""
        self.restart()
        time.sleep(LEAD_SECONDS)
        idle, before, links = rss_mib(self.pid()), cpu_seconds(self.pid()), self.network.look()["port0"]
        program = stranger(self.network, attack.at(attack.gently), attack.port, seconds)
        with Peak(self.pid()) as peak:
            count = through(program, attack.mode)
            cpu = cpu_seconds(self.pid()) - before
            sent, received = (after - b for after, b in zip(self.network.look()["port0"], links))
            if attack.gently:
                # memory is what the worst of them cost
                before = cpu_seconds(self.pid())
                through(stranger(self.network, attack.mode, attack.port, seconds), attack.mode)
        busy = cpu_seconds(self.pid()) - before if attack.gently else cpu
        return {"mib": round(peak.mib - idle, 1), "cpu_us": round(1e6 * cpu / max(1, count)), "count": count,
                "cores": round(busy / seconds, 2), "amplification": round(sent / max(1, received), 2)}


class Node(Victim):
    """One with all its ports open, which has an image and boot files, and a machine that is imaged from it."""

    def __init__(self, network, folder, image):
        self.network = network
        self.ours = Ours(network, folder, image, BUNDLE_BYTES_MAX)
        self.ours.node_options = ["--boot", "proxy", "--interface", "eth0"]
        bundle(self.ours.chain, folder)
        self.restart()
        # the bundle is fetched as any version is
        wait_for(self.boots, 300)

    def boots(self):
        asked = ["curl", "-sfI", "-o", "/dev/null", f"http://{address(0)}:8080/boot/lamplighter.efi"]
        return subprocess.run(self.network.inside(MACHINE, asked)).returncode == 0

    def restart(self):
        self.ours.restart_node()
        wait_for(lambda: "answers network boot" in text(self.ours.node_log))

    def pid(self):
        return self.ours.chain.node.process.pid

    def image(self, restarted):
        return self.ours.run(300, after_restart=restarted).seconds()

    def end(self):
        self.ours.chain.end()


def bundle(chain, folder):
    """Boot files of this chain. A computer that never made any fetches the packages first, which a namespace cannot."""
    cache = f"{CACHE}/boot-media"
    build = ["media", "build", "--out", f"{folder}/media", "--cache", cache]
    if not os.path.isdir(cache):
        home = f"{folder}/warm"
        os.mkdir(home)
        outside = Chain(home, listen="127.0.0.1:18443")
        outside.ask(*build, "--no-publish")
        outside.end()
    chain.ask(*build)


class Headquarters(Victim):
    """HQ on a network, and the node of a store that fetches an image from it."""

    def __init__(self, network, folder, image):
        os.mkdir(folder)
        self.network, self.folder = network, folder
        self.chain = Chain(folder, network.hosts, f"{address(0)}:8443")
        self.object_bytes = self.chain.import_image(image)[2]["object_bytes"]
        self.chain.ask("order", "add", "--site", "bench", "--version", "bench")
        self.waves, self.node = 0, None
        configure_node(f"{folder}/node")
        self.fetch(["--enrol", self.chain.token])

    def fetch(self, more=()):
        """Seconds until a node whose slab is empty has the image."""
        for name in ("slab", "slab-faults"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(f"{self.folder}/node/{name}")
        self.waves += 1
        log = f"{self.folder}/node{self.waves}.log"
        command = [LAMPLIGHTER, "node", "--dir", f"{self.folder}/node", "--boot", "off", "--no-beacons", "--listen", f"{address(1)}:4433",
                   "--slab-bytes", str(self.object_bytes * 2), *more]
        begun = time.monotonic()
        node = Watched(self.network.inside(MACHINE, command), log)
        wait_for(lambda: "a version is complete" in text(log), 300)
        seconds = time.monotonic() - begun
        node.end()
        return seconds

    def restart(self):
        self.chain.hq.end()
        self.chain.start_hq()

    def pid(self):
        return self.chain.hq.process.pid

    def image(self, restarted):
        with alone():
            self.restart()
            restarted()
            return self.fetch()

    def end(self):
        self.chain.end()
