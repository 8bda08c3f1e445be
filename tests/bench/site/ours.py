"""Lamplighter on a network: HQ and one full node at the source, one agent per receiver.

Holds how our programs are started and what they said; never how a figure is judged. Used by ../site.py."""

import dataclasses
import glob
import json
import os
import re
import shutil

from bench import AGENT, LAMPLIGHTER, MIB, Chain, Watched, cpu_seconds, text, wait_for

from network import Recording, Shapers, address
from race import Receiver, alone, compare, end, race

# One of these is said when the last sector is written and read back and the download has ended, 0.7 s before the farewell ends.
# Should those lines go, the farewell's own line stops the clock, later than is fair to us.
MARKS = ("agent: chunks from", "agent: parts from", "agent: finished")
# behind the image: the install record, so that nothing is read before the install begins
DISK_SPARE_BYTES = 8 * MIB
SLAB_SPARE_BYTES = 64 * MIB
COUNTERS = re.compile(r"(duplicates|second_copies|failures)=(\d+)")


@dataclasses.dataclass
class Run:
    """What one wave of installs did. `finished` and `joined` are seconds after the clock, by receiver."""

    clock: float
    joined: dict
    finished: dict
    shapers: Shapers
    recording: Recording
    counters: dict
    agent_seconds: dict
    cpu: dict
    writer_cpu: dict
    idle: float

    def seconds(self):
        return max(self.finished.values())


class Ours:
    def __init__(self, network, folder, image, slab_more_bytes=0):
        os.mkdir(folder)
        self.network, self.folder, self.image, self.slab_more_bytes = network, folder, image, slab_more_bytes
        self.runs = 0
        # one that answers no other port, unless it is told to
        self.node_options = ["--boot", "off", "--no-beacons"]
        self.env = dict(os.environ, LAMPLIGHTER_LOG="info")
        with alone():
            self.prepare()

    def prepare(self):
        self.chain = Chain(self.folder, self.network.hosts)
        imported = self.chain.import_image(self.image)[2]
        self.object_bytes = imported["object_bytes"]
        self.chain.ask("order", "add", "--site", "bench", "--version", "bench")
        # fetches from HQ over loopback, which no link of the network sees
        self.chain.start_node(f"{address(0)}:4433", self.object_bytes * 2 + self.slab_more_bytes)

    def restart_node(self):
        """The node forgets who was here: each wave finds it as the first one did."""
        self.chain.node.end()
        log = self.node_log = f"{self.folder}/node{self.runs}.log"
        command = [LAMPLIGHTER, "node", "--dir", f"{self.folder}/node", *self.node_options, "--listen", f"{address(0)}:4433"]
        self.chain.node = Watched(self.network.inside(0, command), log, env=self.env, start_new_session=True)
        wait_for(lambda: all(line in text(log) for line in ("serves a version", "HQ can be reached")))

    def run(self, within, delays=None, awaited=None, programs=None, disks=None, after_restart=None):
        """One wave. All start at once unless `delays` says otherwise; the clock waits for `awaited`, and their copies are compared.
        `programs` puts another program in an agent's place, `disks` is a folder for what they image, if not in memory;
        `after_restart` is called when the node is up and nobody else."""
        with alone():
            return self.wave(within, delays, awaited, programs, disks, after_restart)

    def wave(self, within, delays, awaited, programs, disks, after_restart):
        self.restart_node()
        if after_restart:
            after_restart()
        self.runs += 1
        delays = {n: 0 for n in self.network.receivers} | (delays or {})
        home = f"{self.folder}/wave{self.runs}"
        # another path is another machine to the agent, and has not spent its order
        disk = {n: f"{disks}/wave{self.runs}-r{n}.raw" if disks else f"{home}/r{n}/disk.raw" for n in delays}
        for n in delays:
            os.makedirs(f"{home}/r{n}")
            make_disk(disk[n], os.path.getsize(self.image) + DISK_SPARE_BYTES)
            make_disk(f"{home}/r{n}/slab", self.object_bytes + self.object_bytes // 64 + SLAB_SPARE_BYTES)

        def start(n):
            program = (programs or {}).get(n, AGENT)
            command = [program, "image", "--to", disk[n], "--node", f"{address(0)}:4433", "--json", f"{home}/r{n}/outcome.json", "--stay",
                       "--slab", f"{home}/r{n}/slab"]
            return Receiver(self.network.inside(n, command), f"{home}/r{n}/log", disk[n], MARKS, env=self.env)

        before, recording, cpu_before = self.network.shapers(), Recording(self.network), cpu_seconds(self.chain.node.process.pid)
        receivers = {}
        try:
            result = race(start, delays, within, awaited)
            receivers, finished = result.receivers, result.finished
            cpu = {n: threads_cpu(r.process.pid) for n, r in receivers.items()}
            cpu[0] = {"all": cpu_seconds(self.chain.node.process.pid) - cpu_before}
            shapers = self.network.shapers().since(before)
            # the outcome is written after the farewell
            wait_for(lambda: all(text(f"{home}/r{n}/outcome.json") for n in finished if n not in (programs or {})), 10)
        finally:
            recording.stop()
            end(receivers.values())
        compare(self.image, [receivers[n] for n in finished])
        logs = [text(receivers[n].log) for n in finished]
        outcomes = {n: json.loads(text(f"{home}/r{n}/outcome.json")) for n in finished}
        seconds = {n: outcome["seconds"] for n, outcome in outcomes.items()}
        writer_cpu = {n: outcome["cpu_seconds"] for n, outcome in outcomes.items()}
        run = Run(result.clock, delays, finished, shapers, recording, count(logs), seconds, cpu, writer_cpu, result.idle)
        shutil.rmtree(home)
        for path in disk.values() if disks else ():
            os.remove(path)
        return run


def make_disk(path, size):
    """A machine has its disk before it is imaged. Memory that is written for the first time costs this computer several times what
    a copy costs, and in a wave all receivers would pay it on the same two cores."""
    zeros = bytes(MIB)
    with open(path, "wb") as disk:
        for at in range(0, size, MIB):
            disk.write(zeros[: min(MIB, size - at)])
        # one that is not memory has nothing left to write when the clock starts, and none of it is in memory
        os.fsync(disk.fileno())
        os.posix_fadvise(disk.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def count(logs):
    """The agents' own counters, added up."""
    total = {"duplicates": 0, "second_copies": 0, "failures": 0}
    for log in logs:
        for line in log.splitlines():
            if "everything is here" in line:
                for name, value in COUNTERS.findall(line):
                    total[name] += int(value)
    return total


def threads_cpu(pid):
    """CPU seconds of a process, and of those the ones that its network threads used; what they leave is the writer's."""
    network = 0.0
    for task in glob.glob(f"/proc/{pid}/task/*"):
        if text(f"{task}/comm").startswith("tokio"):
            fields = text(f"{task}/stat").rsplit(")", 1)[1].split()
            network += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return {"all": cpu_seconds(pid), "network": network}
