"""What strangers cost: `rows(keys, quick)` gives one row of figures after the other. Needs root, and LAMPLIGHTER_STRANGER.

A store's network of a node, one machine that is imaged, and one that attacks from 32 addresses of its own: each port of the node,
and HQ, from which a store's node fetches meanwhile. Every link has 200 Mbit/s. Undisturbed runs come in turns with attacked
ones, and all that is compared is of the same minutes; `site/attacked.py` says what undisturbed means."""

import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [path for path in (HERE, f"{HERE}/site") if path not in sys.path]

from attacked import ADDRESSES, ATTACKER, Attack, Headquarters, Node, stranger, through  # noqa: E402
from bench import MIB, cpu_seconds, median  # noqa: E402
from memory import memory_folders  # noqa: E402
from network import Network, run  # noqa: E402

KEYS = ["trust.handshakes_per_s", "trust.attack_mib", "trust.attack_slowdown", "trust.amplification"]
RATE_MBIT, FILE_MIB, RUNS = 200, 128, 3
HANDSHAKE_SECONDS, COST_SECONDS = 10, 4
# an unacknowledged packet is repeated for so long
ONCE_SECONDS = 50
# packets in a second while a machine is imaged, and while each is weighed
RATE, GENTLY = 10_000, 1_000
HANDSHAKES_GOAL, MIB_GOAL, SLOWDOWN_GOAL, AMPLIFICATION_GOAL = 500, 32, 1.05, 60
# how a stranger attacks which port: examples/stranger of peer-cache-node says what each does
PEERS = [Attack(mode, 4433) for mode in ("silent", "greeters", "strangers", "asks", "requests", "flood")]
DHCP = [Attack(f"dhcp-{mode}", port, RATE, GENTLY) for mode, port in (("discover", 67), ("malformed", 67), ("request", 4011))]
TFTP = [Attack(f"tftp-{mode}", 69, RATE, GENTLY) for mode in ("silent", "patient", "greedy", "missing", "malformed")]
HTTP = [Attack(f"http-{mode}", 8080) for mode in ("slow", "unread", "malformed")]
BEACONS = [Attack(f"beacon-{mode}", 4434, RATE, GENTLY) for mode in ("strangers", "forged", "malformed", "replayed")]
# of bodies it is pieces of 16 KiB, or they would take the line
OF_HQ = [Attack(f"hq-{mode}", 8443) for mode in ("silent", "handshakes", "headers", "tokens", "passwords", "enrol", "foreign")]
OF_HQ += [Attack("hq-bodies", 8443, rate=100)]
# What an attack is compared with: the same packets, as many, as long and as far, or the connections that are tried in vain, where
# nobody is. One stands for others that are like it; where there are few packets it is nothing.
UNDISTURBED = {attack.mode: attack for attack in DHCP} | {attack.mode: TFTP[3] for attack in TFTP}
UNDISTURBED |= {attack.mode: BEACONS[2 if attack.mode.endswith("malformed") else 0] for attack in BEACONS}
UNDISTURBED |= {f"hq-{mode}": OF_HQ[0] for mode in ("silent", "headers", "bodies")}
PORTS = {"peers": (Node, PEERS), "dhcp": (Node, DHCP), "tftp": (Node, TFTP), "http": (Node, HTTP), "beacons": (Node, BEACONS),
         "hq": (Headquarters, OF_HQ)}


def undisturbed_for(attack):
    like = UNDISTURBED.get(attack.mode)
    return like.to_nobody() if like else None


def attacks(victim, chosen):
    """For each attack its slowdown, its memory, and what it costs by itself."""
    costs = {attack.mode: victim.cost(attack, COST_SECONDS) for attack in chosen}
    for mode, cost in costs.items():
        print(f"  {mode}: {cost}", flush=True)
    quiet = list(dict.fromkeys(undisturbed_for(attack) for attack in chosen))
    slowdowns, peaks, least = {attack.mode: [] for attack in chosen}, {attack.mode: 0 for attack in chosen}, 0
    for _ in range(RUNS):
        undisturbed = {}
        for like in quiet:
            undisturbed[like], mib = victim.wave(like)
            least = max(least, mib)
            print(f"  undisturbed{f' beside {like.mode} to nobody' if like else ''}: {undisturbed[like]:.2f} s, {mib:.1f} MiB", flush=True)
        for attack in chosen:
            seconds, mib = victim.wave(attack)
            slowdowns[attack.mode].append(seconds / undisturbed[undisturbed_for(attack)])
            peaks[attack.mode] = max(peaks[attack.mode], mib)
            print(f"  {attack.mode}: {seconds:.2f} s, {mib:.1f} MiB", flush=True)
    for mode, cost in costs.items():
        cost["slowdown"] = round(median(slowdowns[mode]), 3)
        cost["mib"] = max(cost["mib"], round(peaks[mode] - least, 1))
    return costs


def handshakes(network, node):
    """Whole handshakes for each CPU second of the node: keys of both sides, a hello, a ticket that is checked, one request answered."""
    node.restart()
    before = cpu_seconds(node.pid())
    count = through(stranger(network, "handshakes", 4433, HANDSHAKE_SECONDS, ADDRESSES[:1]), "handshakes")
    return count, cpu_seconds(node.pid()) - before


def row(key, value, unit, goal, peers):
    return {"key": key, "value": value, "unit": unit, "goal": goal, "peers": peers, "runs": RUNS}


def measure(network, folder, file, wanted, ports):
    """A row for handshakes, and what each attack cost."""
    made, costs = [], {}
    # one victim at a time is up
    for kind in (Node, Headquarters):
        chosen = [attack for port in ports for attack in PORTS[port][1] if PORTS[port][0] is kind]
        speed = kind is Node and KEYS[0] in wanted
        if not chosen and not speed:
            continue
        victim = kind(network, f"{folder}/{kind.__name__}", file)
        if speed:
            figures = [handshakes(network, victim) for _ in range(RUNS)]
            value = median([count / seconds for count, seconds in figures])
            made.append(row(KEYS[0], round(value), "of one core", f">= {HANDSHAKES_GOAL}", {"handshakes": figures[-1][0]}))
        if chosen:
            costs |= attacks(victim, chosen)
        if any(attack.port == 69 for attack in chosen):
            once = victim.cost(Attack("tftp-once", 69), ONCE_SECONDS)
            costs["tftp-once"] = once | {"slowdown": 1.0}
            print(f"  tftp-once: {once}", flush=True)
        victim.end()
        shutil.rmtree(f"{folder}/{kind.__name__}")
    return made, costs


def rows(keys, quick):
    ports = [port for port in PORTS if f"trust.{port}" in keys] or list(PORTS)
    asked = [key for key in keys if key.removeprefix("trust.") not in PORTS]
    if unknown := [key for key in asked if key not in [*KEYS, "trust"]]:
        raise SystemExit(f"trust: no key {unknown[0]}; there is {', '.join(KEYS)}, and trust.{', trust.'.join(PORTS)} for a part of them")
    wanted = [key for key in KEYS if key in asked or "trust" in asked or (not asked and key != KEYS[0])]
    with memory_folders() as (folder, _), Network(2, RATE_MBIT) as network:
        # the second host is the attacker's
        network.receivers = range(1, 2)
        for n in ADDRESSES:
            run("ip", "-n", network.hosts[ATTACKER], "addr", "add", f"{n}/24", "dev", "eth0")
        file = f"{folder}/noise.bin"
        with open(file, "wb") as out:
            for _ in range(FILE_MIB // (4 if quick else 1)):
                out.write(os.urandom(MIB))
        made, costs = measure(network, folder, file, wanted, ports if set(KEYS[1:]) & set(wanted) else [])
        os.remove(file)
    if costs:
        worst = lambda what: max(cost[what] for cost in costs.values())
        of_all = [row(KEYS[1], worst("mib"), "MiB", f"<= {MIB_GOAL}", {mode: cost["mib"] for mode, cost in costs.items()}),
                  row(KEYS[2], worst("slowdown"), "x undisturbed", f"<= {SLOWDOWN_GOAL}", costs),
                  row(KEYS[3], worst("amplification"), "x sent", f"<= {AMPLIFICATION_GOAL}", {mode: cost["amplification"] for mode, cost in costs.items()})]
        made += [r for r in of_all if r["key"] in wanted]
    return made
