"""A store's network out of namespaces: a source, receivers and a switch, every link as slow as it is told to be.

Holds namespaces, links, shaping and what the links counted; never a program that is measured. Used by ours.py and others.py."""

import dataclasses
import json
import os
import signal
import subprocess
import threading
import time

from bench import wait_for

SOURCE = 0
# as large as the buffer of a port of a small switch: what comes faster is lost there
SHAPER = ("burst", "64kb", "limit", "512kb")
SAMPLE_SECONDS = 0.05


def address(n):
    return f"10.77.0.{100 + n}"


def run(*command):
    subprocess.run(command, check=True)


def prefer_tcp(name):
    """What TCP does about congestion in a namespace: what a user's computer does. Where the kernel allows namespaces only some, the
    nearest to it; reno was better for the others than bbr."""
    for kind in ("cubic", "reno"):
        command = ["ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv4.tcp_congestion_control={kind}"]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0:
            return kind
    raise SystemExit("site: neither cubic nor reno can be had")


class Network:
    """Hosts 0 (the source) to `receivers` behind one switch. `rate_mbit` shapes each link both ways; 0 leaves them unshaped."""

    def __init__(self, receivers, rate_mbit=0):
        self.rate_mbit = rate_mbit
        self.receivers = range(1, receivers + 1)
        self.switch = f"lb{os.getpid()}sw"
        self.hosts = [f"lb{os.getpid()}p{n}" for n in range(receivers + 1)]
        self.made = []

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def make(self):
        for name in (self.switch, *self.hosts):
            run("ip", "netns", "add", name)
            self.made.append(name)
            self.tcp = prefer_tcp(name)
        # a switch that does not learn multicast groups: it floods, as the cheap ones in stores do
        run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", self.switch, "link", "set", "br0", "up")
        for n, host in enumerate(self.hosts):
            run("ip", "link", "add", "eth0", "netns", host, "type", "veth", "peer", "name", f"port{n}", "netns", self.switch)
            # udpcast sends to the broadcast address and through the multicast route
            run("ip", "-n", host, "addr", "add", f"{address(n)}/24", "brd", "+", "dev", "eth0")
            for interface in ("lo", "eth0"):
                run("ip", "-n", host, "link", "set", interface, "up")
            run("ip", "-n", host, "route", "add", "224.0.0.0/4", "dev", "eth0")
            run("ip", "-n", self.switch, "link", "set", f"port{n}", "master", "br0", "up")
            if self.rate_mbit:
                self.shape(n, self.rate_mbit)
        # /proc/PID/net shows the namespace of the process: all links in one look, without entering it
        self.lookout = subprocess.Popen(self.inside(self.switch, ["sleep", "infinity"]), start_new_session=True)
        wait_for(lambda: "port0" in self.look())
        # ports forward and addresses are ready
        time.sleep(1)

    def remove(self):
        """Ends what runs in our namespaces and removes them. A second Ctrl-C waits."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in self.made:
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in pids:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        for name in self.made:
            subprocess.run(["ip", "netns", "del", name], check=False)
        self.made = []
        signal.signal(signal.SIGINT, before)

    def inside(self, host, command):
        """The command in a namespace, given by number or name."""
        name = host if isinstance(host, str) else self.hosts[host]
        return ["ip", "netns", "exec", name, *command]

    def ends(self, n):
        return (self.hosts[n], "eth0"), (self.switch, f"port{n}")

    def shape(self, n, rate_mbit):
        """Both ends of the host's link: what it sends, and what the switch sends it."""
        for name, interface in self.ends(n):
            run("tc", "-n", name, "qdisc", "replace", "dev", interface, "root", "tbf", "rate", f"{rate_mbit}mbit", *SHAPER)

    def set_mtu(self, mtu):
        for n in range(len(self.hosts)):
            for name, interface in self.ends(n):
                run("ip", "-n", name, "link", "set", interface, "mtu", str(mtu))

    def look(self):
        """Bytes by link as the switch sees them: {"port0": (sent by the host, sent to the host)}."""
        seen = {}
        with open(f"/proc/{self.lookout.pid}/net/dev") as table:
            for line in table:
                name, _, fields = line.partition(":")
                if name.strip().startswith("port"):
                    numbers = fields.split()
                    seen[name.strip()] = int(numbers[0]), int(numbers[8])
        return seen

    def shapers(self):
        """What the shapers counted so far: bytes that the source sent, and packets dropped on the way up and down."""
        up = [self.shaper(*self.ends(n)[0]) for n in range(len(self.hosts))]
        down = [self.shaper(*self.ends(n)[1]) for n in range(len(self.hosts))]
        return Shapers(up[SOURCE]["bytes"], sum(q["drops"] for q in up), sum(q["drops"] for q in down))

    def shaper(self, name, interface):
        shown = subprocess.run(["tc", "-n", name, "-s", "-j", "qdisc", "show", "dev", interface], capture_output=True, check=True)
        root = [q for q in json.loads(shown.stdout) if q["kind"] == "tbf"]
        return root[0] if root else {"bytes": 0, "drops": 0}


@dataclasses.dataclass
class Shapers:
    """Bytes here are what the wire carries. An interface's own tx_bytes are less: it counts the headers of a segmented
    batch of packets once."""

    source_bytes: int
    dropped_up: int
    dropped_down: int

    def since(self, before):
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(before)
        return Shapers(*(a - b for a, b in zip(mine, theirs)))


class Recording:
    """Looks at all links every 50 ms until it is stopped. Moments are of time.monotonic()."""

    def __init__(self, network):
        self.network = network
        self.samples = [(time.monotonic(), network.look())]
        self.running = True
        self.thread = threading.Thread(target=self.record, daemon=True)
        self.thread.start()

    def record(self):
        while self.running:
            time.sleep(SAMPLE_SECONDS)
            self.samples.append((time.monotonic(), self.network.look()))

    def stop(self):
        self.running = False
        self.thread.join()

    def source_rates(self):
        """(from, to, bytes per second that the source sent)."""
        for (since, before), (until, after) in zip(self.samples, self.samples[1:]):
            yield since, until, (after["port0"][0] - before["port0"][0]) / (until - since)

    def source_bytes(self):
        return self.samples[-1][1]["port0"][0] - self.samples[0][1]["port0"][0]

    def moment_of(self, n, received_bytes):
        """When the link of host `n` had brought it so much; None if it never did."""
        before = self.samples[0][1][f"port{n}"][1]
        return next((at for at, seen in self.samples if seen[f"port{n}"][1] - before >= received_bytes), None)
