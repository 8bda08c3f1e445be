"""What strangers cost a node: `rows(keys, quick)` gives one row of figures after the other. Needs root, and LAMPLIGHTER_STRANGER.

A store's network of a source, one machine that is imaged, and one that attacks the source from 32 addresses of its own, as fast as it
can with a core that nobody else wants. Every link has 200 Mbit/s. Undisturbed runs come in turns with attacked ones, and all
that is compared is of the same minutes."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [path for path in (HERE, f"{HERE}/site") if path not in sys.path]

from bench import MIB, cpu_seconds, median, rss_mib  # noqa: E402
from memory import memory_folders  # noqa: E402
from network import Network, address, run  # noqa: E402
from ours import Ours  # noqa: E402

KEYS = ["trust.handshakes_per_s", "trust.attack_mib", "trust.attack_slowdown"]
RATE_MBIT, FILE_MIB, RUNS = 200, 256, 2
ATTACKER = 2
ADDRESSES = [f"10.77.0.{200 + n}" for n in range(32)]
# how a stranger attacks: examples/stranger.rs of peer-cache-node says what each does
MODES = ["silent", "greeters", "strangers", "asks", "requests", "flood"]
ATTACK_SECONDS, HANDSHAKE_SECONDS, LEAD_SECONDS = 120, 10, 2
HANDSHAKES_GOAL, MIB_GOAL, SLOWDOWN_GOAL = 500, 32, 1.05


class Peak:
    """The most memory of its own that a program had while this was open."""

    def __init__(self, pid):
        self.pid, self.mib, self.ended = pid, 0.0, threading.Event()
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


def stranger(network, mode, seconds, addresses):
    command = [os.environ["LAMPLIGHTER_STRANGER"], mode, f"{address(0)}:4433", str(seconds), *addresses]
    # the machine that attacks has cores of its own; here it must not take those of the others
    return subprocess.Popen(network.inside(ATTACKER, ["nice", "-n", "15", *command]), stdout=subprocess.PIPE, text=True)


def wave(network, ours, mode):
    """Seconds until the honest machine has its image, and the node's peak of memory."""
    with contextlib.ExitStack() as attack:
        peaks = []

        def restarted():
            """The attack begins when the node is up, and before the machine is."""
            peaks.append(attack.enter_context(Peak(ours.chain.node.process.pid)))
            if mode:
                attack.enter_context(attacker(network, mode))
                time.sleep(LEAD_SECONDS)

        done = ours.run(300, after_restart=restarted)
    return done.seconds(), peaks[0].mib


@contextlib.contextmanager
def attacker(network, mode):
    program = stranger(network, mode, ATTACK_SECONDS, ADDRESSES)
    try:
        yield
        # one that ended attacked nobody
        if program.poll() is not None:
            raise SystemExit(f"trust: stranger {mode} ended with {program.returncode} before it was told to")
    finally:
        program.terminate()
        program.wait()


def attacks(network, ours):
    undisturbed, attacked = [], {mode: [] for mode in MODES}
    for _ in range(RUNS):
        undisturbed.append(wave(network, ours, None))
        print(f"  undisturbed: {undisturbed[-1][0]:.2f} s, {undisturbed[-1][1]:.1f} MiB", flush=True)
        for mode in MODES:
            attacked[mode].append(wave(network, ours, mode))
            print(f"  {mode}: {attacked[mode][-1][0]:.2f} s, {attacked[mode][-1][1]:.1f} MiB", flush=True)
    seconds, mib = min(s for s, _ in undisturbed), max(m for _, m in undisturbed)
    slowdown = {mode: round(min(s for s, _ in runs) / seconds, 3) for mode, runs in attacked.items()}
    memory = {mode: round(max(m for _, m in runs) - mib, 1) for mode, runs in attacked.items()}
    return slowdown, memory


def handshakes(network, ours):
    """Whole handshakes for each CPU second of the node: keys of both sides, a hello, a ticket that is checked, one request answered."""
    ours.restart_node()
    node = ours.chain.node.process.pid
    before = cpu_seconds(node)
    done = stranger(network, "handshakes", HANDSHAKE_SECONDS, ADDRESSES[:1])
    said, _ = done.communicate(timeout=60)
    if done.returncode:
        raise SystemExit(f"trust: stranger handshakes ended with {done.returncode}")
    through = json.loads(said.splitlines()[-1])["through"]
    return through, cpu_seconds(node) - before


def row(key, value, unit, goal, peers):
    return {"key": key, "value": value, "unit": unit, "goal": goal, "peers": peers, "runs": RUNS}


def rows(keys, quick):
    wanted = [key for key in KEYS if key in keys or "trust" in keys]
    if unknown := [key for key in keys if key not in [*KEYS, "trust"]]:
        raise SystemExit(f"trust: no key {unknown[0]}; there is {', '.join(KEYS)}")
    made = []
    with memory_folders() as (folder, _), Network(2, RATE_MBIT) as network:
        # the second host is the attacker's
        network.receivers = range(1, 2)
        for n in ADDRESSES:
            run("ip", "-n", network.hosts[ATTACKER], "addr", "add", f"{n}/24", "dev", "eth0")
        file = f"{folder}/noise.bin"
        with open(file, "wb") as out:
            for _ in range(FILE_MIB // (4 if quick else 1)):
                out.write(os.urandom(MIB))
        ours = Ours(network, f"{folder}/ours", file)
        if KEYS[0] in wanted:
            figures = [handshakes(network, ours) for _ in range(RUNS)]
            value = median([count / seconds for count, seconds in figures])
            made.append(row(KEYS[0], round(value), "of one core", f">= {HANDSHAKES_GOAL}", {"handshakes": figures[-1][0]}))
        if set(KEYS[1:]) & set(wanted):
            slowdown, memory = attacks(network, ours)
            both = [row(KEYS[1], max(memory.values()), "MiB", f"<= {MIB_GOAL}", memory),
                    row(KEYS[2], max(slowdown.values()), "x undisturbed", f"<= {SLOWDOWN_GOAL}", slowdown)]
            made += [r for r in both if r["key"] in wanted]
        shutil.rmtree(f"{folder}/ours")
        os.remove(file)
    return made
