"""Where the percents between size/rate and the clock went, from one recorded wave.

Holds arithmetic over samples and counters; starts nothing. Used by ../site.py."""

MIB = 1 << 20
# bytes of a full packet on the wire, and of those what QUIC's stream carries at a UDP payload of 1472 and 4-byte connection ids
FRAME_BYTES, FRAME_PAYLOAD = 1514, 1441
FRAMING = FRAME_BYTES / FRAME_PAYLOAD


def breakdown(run, file_bytes, rate_mbit):
    """Seconds by cause, and what the links and the agents counted."""
    rate = rate_mbit * 1e6 / 8
    bound = file_bytes / rate
    total = run.seconds()
    starts, ends, idle = source_link(run, rate)
    parts = {
        "framing": bound * (FRAMING - 1),
        "start": starts,
        "idle": idle,
        "extra": (run.shapers.source_bytes - file_bytes * FRAMING) / rate,
        "tail": total - ends,
    }
    parts["rest"] = total - bound - sum(parts.values())
    first = [run.recording.moment_of(n, MIB) for n in run.finished]
    return {
        "seconds": round(total, 3),
        "size_over_rate": round(bound, 3),
        "percent": {cause: round(100 * seconds / bound, 2) for cause, seconds in parts.items()},
        # the first chunk itself is in no log: this is when each receiver's link had brought a chunk's worth of bytes
        "first_mib_seconds": [round(at - run.clock, 2) for at in (min(first), max(first))],
        "idle_seconds": round(idle, 3),
        "tail_seconds": round(total - ends, 3),
        "source_copies": round(run.shapers.source_bytes / file_bytes, 4),
        "source_copies_tx_bytes": round(run.recording.source_bytes() / file_bytes, 4),
        "dropped_up": run.shapers.dropped_up,
        "dropped_down": run.shapers.dropped_down,
        **run.counters,
        "finished": {n: round(at, 2) for n, at in sorted(run.finished.items())},
        "agent_seconds": {n: round(s, 2) for n, s in sorted(run.agent_seconds.items())},
        "cpu_per_gb": round(sum(c["all"] for c in run.cpu.values()) / (file_bytes * len(run.finished) / 1e9), 2),
        "cores_idle": round(run.idle, 2),
    }


def source_link(run, rate):
    """Seconds after the clock at which the source's link came to half its rate and at which it last had a twentieth, and how much
    of the time between it spent below half."""
    samples = [(since - run.clock, until - run.clock, bytes_per_second) for since, until, bytes_per_second in run.recording.source_rates()]
    busy = [n for n, (_, _, r) in enumerate(samples) if r >= rate / 2]
    alive = [n for n, (_, _, r) in enumerate(samples) if r >= rate / 20]
    if not busy:
        return 0.0, run.seconds(), 0.0
    starts, ends = samples[busy[0]][0], min(samples[alive[-1]][1], run.seconds())
    idle = sum(until - since for since, until, r in samples[busy[0] : alive[-1]] if r < rate / 2)
    return max(0.0, starts), ends, idle


def explain(name, shown):
    """The lines for a person."""
    causes = ", ".join(f"{cause} {percent:+.2f}" for cause, percent in shown["percent"].items())
    first, last = shown["first_mib_seconds"]
    return (
        f"  {name}: {shown['seconds']:.2f} s = {shown['seconds'] / shown['size_over_rate']:.4f} x {shown['size_over_rate']:.2f} s; percent: {causes}\n"
        f"    first MiB after {first:.2f} to {last:.2f} s, source idle {shown['idle_seconds']:.2f} s, tail {shown['tail_seconds']:.2f} s, "
        f"source sent {shown['source_copies']:.3f} x, dropped {shown['dropped_up']} up {shown['dropped_down']} down, duplicates "
        f"{shown['duplicates']}, second copies {shown['second_copies']}, failures {shown['failures']}, {shown['cpu_per_gb']} CPU s/GB, cores idle {shown['cores_idle']:.0%}"
    )
