"""One clock for everybody who wants a copy, ours and others alike.

Holds the start, the finish and the comparison of copies; never what a program's options are. Used by ours.py and others.py."""

import contextlib
import dataclasses
import fcntl
import os
import signal
import subprocess
import tempfile
import time

from bench import Watched, text

SECTOR_BYTES = 512
# the protective record, the header, and 128 entries of 128 bytes; behind the content the same without the record
GPT_SECTORS = 34

LOOK_SECONDS = 0.02
FAREWELL_SECONDS = 5
LOCK = f"{tempfile.gettempdir()}/lamplighter-bench-site.lock"


@contextlib.contextmanager
def alone():
    """Two of these measurements at once on one computer would measure each other: each waits for the other's turn to end."""
    with open(LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Receiver(Watched):
    """A program that makes a copy. It has finished when its log holds one of `marks`, or, without marks, when it ends well."""

    def __init__(self, command, log, copy, marks=(), **more):
        super().__init__(command, log, start_new_session=True, **more)
        self.log, self.copy, self.marks = log, copy, marks

    def look(self):
        """Memory is not measured here, and looking at it takes time from those who run."""

    def has_finished(self):
        code = self.process.poll()
        if self.marks and any(mark in text(self.log) for mark in self.marks):
            return True
        if code or (self.marks and code is not None):
            raise SystemExit(f"site: {' '.join(self.process.args)} ended with {code}:\n{text(self.log)[-2000:]}")
        return code == 0


@dataclasses.dataclass
class Race:
    """`finished` are seconds after the clock, by receiver. `idle` is the share of this computer's cores that nobody used: near
    nothing, and the race was one for the cores."""

    clock: float
    receivers: dict
    finished: dict
    idle: float


def core_ticks():
    """Ticks of all cores that were idle, and all ticks."""
    with open("/proc/stat") as stat:
        ticks = [int(field) for field in stat.readline().split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def race(start, delays, within, awaited=None):
    """Starts receiver n `delays[n]` seconds after the clock, which stops when each of `awaited` (all, unless told) has finished;
    looked at every 20 ms, which counts against whoever is measured."""
    clock, ticks = time.monotonic(), core_ticks()
    waiting, receivers, finished = dict(delays), {}, {}
    awaited = set(delays if awaited is None else awaited)
    try:
        while not awaited <= finished.keys():
            now = time.monotonic() - clock
            for n in [n for n, delay in waiting.items() if delay <= now]:
                receivers[n] = start(n)
                del waiting[n]
            for n in receivers.keys() - finished.keys():
                if receivers[n].has_finished():
                    finished[n] = time.monotonic() - clock
            if now > within:
                late = sorted(awaited - finished.keys())
                raise SystemExit(f"site: receivers {late} were not there after {within:.0f} s:\n{text(receivers[late[0]].log)[-2000:]}")
            time.sleep(LOOK_SECONDS)
    except BaseException:
        end(receivers.values())
        raise
    idle, every = (after - before for after, before in zip(core_ticks(), ticks))
    return Race(clock, receivers, finished, idle / max(1, every))


def end(programs):
    """Asks first, as Ctrl-C would."""
    programs = list(programs)
    for program in programs:
        if program.process.poll() is None:
            program.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + FAREWELL_SECONDS
    for program in programs:
        try:
            program.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        program.end()
        program.out.close()


def compare(original, receivers):
    """The clock has stopped; a copy that is not the original makes the whole measurement void."""
    size, table = os.path.getsize(original), partition_table_bytes(original)
    for receiver in receivers:
        same = ["cmp", "-i", str(table), "-n", str(size - 2 * table), original, receiver.copy]
        compared = subprocess.run(same, capture_output=True, text=True)
        if compared.returncode:
            raise SystemExit(f"site: {receiver.copy} is not a copy of {original}: {compared.stdout}\n{text(receiver.log)[-2000:]}")


def partition_table_bytes(image):
    """At either end of an image with a GPT (UEFI 2.10, section 5.3): our agent fits it to a larger disk, as any installer does."""
    with open(image, "rb") as file:
        file.seek(SECTOR_BYTES)
        return GPT_SECTORS * SECTOR_BYTES if file.read(8) == b"EFI PART" else 0
