"""Five nodes with less room than the image needs: `rows()` gives how many of the ten pairs may vanish.

HQ, nodes and the machine are real programs in network namespaces. For each pair: both are killed, every line to HQ is cut, and a machine
is imaged from the three that are left. Needs root."""

import contextlib
import itertools
import json
import os
import re
import subprocess
import tempfile

import bench
from bench import AGENT, CACHE, LAMPLIGHTER, MIB, Watched, text, wait_for

wan = bench.beside("wan")
KEYS = ["site.two_of_five"]
NODES = 5
PAIRS = 10
COPIES = 3
# of the image's objects; three copies of each need 60 of each node, and a sixteenth of a slab is nobody's share
SLAB_PERCENT = 66
IMAGE_SECONDS = 300
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SHARE = re.compile(r"this node's share of a version is here .*chunks=(\d+) of=(\d+)")


class SmallStore(wan.Store):
    """A store whose nodes have small slabs."""

    def lines(self, state):
        for n in range(NODES):
            wan.ip("-n", self.name("hq"), "link", "set", f"wan{n}", state)

    def image_machine(self, n, node):
        """The disk of a machine that was imaged, starting with the address of one node; an order is carried out once per machine."""
        path = f"{self.folder}/m{n}"
        command = [AGENT, "image", "--to", f"{path}.raw", "--node", f"10.80.0.{10 + node}:4433", "--json", f"{path}.json"]
        machine = Watched(self.inside(f"m{n}", command), f"{path}.log")
        try:
            machine.process.wait(IMAGE_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            machine.end()
        done = machine.process.returncode == 0 and json.loads(text(f"{path}.json"))["verified"]
        return f"{path}.raw" if done else None


def shares(nodes):
    """Chunks that each node keeps and has, and chunks of the image; as each said last."""
    said = [SHARE.findall(COLOUR.sub("", text(node.log))) for node in nodes]
    return [tuple(map(int, each[-1])) if each else (0, 1) for each in said]


def is_spread(nodes):
    said = shares(nodes)
    return all(kept for kept, _ in said) and sum(kept for kept, _ in said) == COPIES * said[0][1]


def is_same(image, raw):
    """The disk's content, but for what the agent makes anew: the partition tables at either end."""
    edge = MIB
    with open(image, "rb") as one, open(raw, "rb") as two:
        size = os.path.getsize(image)
        one.seek(edge)
        two.seek(edge)
        at = edge
        while at < size - edge:
            want = min(MIB, size - edge - at)
            if one.read(want) != two.read(want):
                return False
            at += want
    return True


def two_of_five(quick):
    with in_small_store() as store:
        image = bench.debian_image()
        objects = store.ask("image", "import", image, "--name", "till")["object_bytes"]
        store.slab_bytes = objects * SLAB_PERCENT // 100
        nodes = [store.start_node(n, NODES, store.token()) for n in range(NODES)]
        wait_for(lambda: all(text(n.log).count("connected") >= NODES - 1 for n in nodes))
        store.order()
        wait_for(lambda: is_spread(nodes), 600)
        once = store.wan_bytes_at_rest()
        completed, failed = 0, []
        pairs = list(itertools.combinations(range(NODES), 2))
        for number, pair in enumerate(pairs[:2] if quick else pairs):
            before = store.wan_bytes_at_rest()
            for n in pair:
                nodes[n].end()
            store.lines("down")
            rest = next(n for n in range(NODES) if n not in pair)
            disk = store.image_machine(number, rest)
            done = disk and is_same(image, disk)
            store.lines("up")
            if disk:
                os.remove(disk)
            if done and store.wan_bytes_at_rest() == before:
                completed += 1
            else:
                failed.append(pair)
            for n in pair:
                nodes[n] = store.start_node(n, NODES, store.token())
            wait_for(lambda: all(text(nodes[n].log).count("connected") >= NODES - 1 for n in pair))
            wait_for(lambda: is_spread(nodes))
        peers = {"wan once": round(once / objects, 3), "wan in all": round(store.wan_bytes_at_rest() / objects, 3),
                 "kept": [kept for kept, _ in shares(nodes)], "failed": failed}
        return completed, peers


@contextlib.contextmanager
def in_small_store():
    with tempfile.TemporaryDirectory(prefix="lamplighter-spread-", dir=CACHE) as folder:
        store = SmallStore(folder, NODES, PAIRS)
        try:
            yield store
        finally:
            store.end()


def rows(keys, quick=False):
    if KEYS[0] in keys:
        completed, peers = two_of_five(quick)
        yield {"key": KEYS[0], "value": completed, "unit": "pairs of 10", "goal": "10", "peers": peers, "runs": 1}
