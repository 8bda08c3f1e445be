"""What a user would pick instead, on the same network and by the same clock.

Holds how nginx, aria2, libtorrent and udpcast are started at their best; never a figure. Used by ../site.py."""

import dataclasses
import os
import shutil
import subprocess
import time

from bench import Watched, wait_for

from network import address
from race import Race, Receiver, alone, compare, end, race

HERE = os.path.dirname(os.path.abspath(__file__))
# libtorrent's bindings are a Debian package
SYSTEM_PYTHON = "/usr/bin/python3"
TORRENT = [SYSTEM_PYTHON, f"{HERE}/torrent.py"]
TRACKER_PORT, HTTP_PORT = 6969, 8080
# the time in which a tracker or a source has read what it needs, and listens
SOURCE_SECONDS = 2

NGINX = """worker_processes 1; daemon off; user root; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; tcp_nopush on; server {{ listen {port}; root {root}; }} }}
"""
ARIA2 = ["aria2c", "--console-log-level=notice", "--summary-interval=0", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false",
         "--enable-peer-exchange=false", "--bt-tracker-interval=2", "--listen-port=6881", "--seed-ratio=0.0", "--bt-max-peers=0",
         "--max-upload-limit=0"]
ARIA2_SEED = [*ARIA2, "--check-integrity=false", "--bt-seed-unverified=true"]
ARIA2_GET = [*ARIA2, "--bt-request-peer-speed-limit=500M", "--bt-hash-check-seed=false", "--file-allocation=none", "--allow-overwrite=true"]


@dataclasses.dataclass
class Transfer:
    race: Race
    source_bytes: int
    tcp: str


class Others:
    """Transfers of one file to all receivers of a network."""

    def __init__(self, network, folder, file, within):
        self.network, self.folder, self.file, self.within = network, folder, file, within
        os.makedirs(folder, exist_ok=True)

    def copies(self):
        """A fresh folder for each receiver."""
        for n in self.network.receivers:
            shutil.rmtree(self.home(n), ignore_errors=True)
            os.mkdir(self.home(n))

    def home(self, n):
        return f"{self.folder}/r{n}"

    def copy(self, n):
        return f"{self.home(n)}/{os.path.basename(self.file)}"

    def background(self, host, name, command):
        return Watched(self.network.inside(host, command), f"{self.folder}/{name}.log", start_new_session=True)

    def transfer(self, command, marks=(), sources=(), then=None, original=None):
        """`command(n)` makes the copy of receiver n, with `sources` there before the clock starts; `then` comes just after."""
        with alone():
            return self.turn(command, marks, sources, then, original)

    def turn(self, command, marks, sources, then, original):
        self.copies()
        programs = []
        for source in sources:
            programs.append(self.background(0, f"source{len(programs)}", source))
            time.sleep(SOURCE_SECONDS)

        def start(n):
            copy = f"{self.home(n)}/{os.path.basename(original)}" if original else self.copy(n)
            return Receiver(self.network.inside(n, command(n)), f"{self.home(n)}.log", copy, marks)

        receivers = {}
        try:
            before = self.network.shapers()
            if then is None:
                result = race(start, {n: 0 for n in self.network.receivers}, self.within)
            else:
                result = self.after_all(start, then, programs)
            receivers = result.receivers
            sent = self.network.shapers().since(before).source_bytes
        finally:
            end([*receivers.values(), *programs])
        compare(original or self.file, receivers.values())
        self.copies()
        return Transfer(result, sent, self.network.tcp)

    def after_all(self, start, then, programs):
        """udpcast's receivers must all be there when the sender starts, so its clock starts with the sender."""
        receivers = {n: start(n) for n in self.network.receivers}
        time.sleep(0.5)
        programs.append(self.background(0, "sender", then))
        return race(receivers.__getitem__, {n: 0 for n in receivers}, self.within)

    def nginx(self):
        conf = f"{self.folder}/nginx.conf"
        with open(conf, "w") as out:
            out.write(NGINX.format(folder=self.folder, port=HTTP_PORT, root=os.path.dirname(self.file)))
        url = f"http://{address(0)}:{HTTP_PORT}/{os.path.basename(self.file)}"
        source = ["nginx", "-e", f"{self.folder}/nginx.log", "-c", conf]
        return self.transfer(lambda n: ["curl", "-sf", "-o", self.copy(n), url], sources=[source])

    def torrent(self):
        torrent = f"{self.folder}/file.torrent"
        if not os.path.exists(torrent):
            subprocess.run([*TORRENT, "make", self.file, torrent, f"http://{address(0)}:{TRACKER_PORT}/announce"], check=True)
        return torrent

    def aria2(self):
        torrent = self.torrent()
        tracker = [SYSTEM_PYTHON, f"{HERE}/tracker.py", address(0), str(TRACKER_PORT)]
        source = [*ARIA2_SEED, "-d", os.path.dirname(self.file), torrent]
        # aria2 says nothing when all is here; it runs a program then, and goes on serving
        hook = f"{self.folder}/done.sh"
        with open(hook, "w") as out:
            out.write("#!/bin/sh\necho aria2: done\n")
        os.chmod(hook, 0o755)
        get = [*ARIA2_GET, f"--on-bt-download-complete={hook}"]
        return self.transfer(lambda n: [*get, "-d", self.home(n), torrent], ["aria2: done"], sources=[tracker, source])

    def libtorrent(self, unpack=None, original=None):
        """With `unpack(n)` the clock stops when that command has run on the copy."""
        torrent, receivers = self.torrent(), str(len(self.network.receivers))
        source = [*TORRENT, "seed", torrent, os.path.dirname(self.file), "0", receivers]
        get = lambda n: [*TORRENT, "get", torrent, self.home(n), str(n), receivers, *(unpack(n) if unpack else [])]
        return self.transfer(get, ["torrent: done"], sources=[source], original=original)

    def libtorrent_packed(self, original):
        unpack = lambda n: ["zstd", "-dqf", self.copy(n), "-o", f"{self.home(n)}/{os.path.basename(original)}"]
        return self.libtorrent(unpack, original)

    def udpcast(self, percent):
        return self.transfer(lambda n: [*UDP_RECEIVER, "--file", self.copy(n)], then=self.udp_sender(percent))

    def udpcast_packed(self, percent, original):
        """Unpacked as it comes: without --file the receiver writes to a pipe."""
        name = os.path.basename(original)
        unpack = lambda n: ["sh", "-c", f"{' '.join(UDP_RECEIVER)} | zstd -dqf -o {self.home(n)}/{name}"]
        return self.transfer(unpack, then=self.udp_sender(percent), original=original)

    def udp_sender(self, percent):
        kbit = self.network.rate_mbit * 10 * percent
        return ["udp-sender", "--file", self.file, "--interface", "eth0", "--min-receivers", str(len(self.network.receivers)), "--nokbd",
                "--no-progress", "--full-duplex", "--max-bitrate", f"{kbit}k"]


UDP_RECEIVER = ["udp-receiver", "--interface", "eth0", "--nokbd", "--no-progress"]
