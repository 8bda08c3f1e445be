"""How heavy HQ's page is, and how soon it can be used, with a whole chain in HQ: `rows(keys, quick)`."""

import json
import os
import subprocess
import tempfile

from bench import CACHE
from hq import QUICK, Hq, load_file

KEYS = ["hq.first_view_kb"]
TIMES = 5
GOAL_KB, GOAL_MS = 200, 1000
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "browser", "first-view.mjs")


def rows(keys, quick):
    with tempfile.TemporaryDirectory(prefix="lamplighter-bench-page-", dir=CACHE) as folder:
        # makes the tables
        Hq(folder, []).end()
        load_file(f"{folder}/hq", QUICK if quick else 1)
        hq = Hq(folder, [])
        command = ["node", SCRIPT, f"https://{hq.address}", str(TIMES)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "LAMPLIGHTER_TOKEN": hq.token})
        hq.end()
    views = json.loads(done.stdout)
    worst = {what: max(view[what] for view in views) for what in views[0]}
    yield {"key": KEYS[0], "value": round(worst["bytes"] / 1000, 1), "unit": "kB", "goal": f"<= {GOAL_KB}",
           "peers": {"shown_ms": worst["shown_ms"], "used_ms": worst["used_ms"], "used_ms_goal": GOAL_MS}, "runs": TIMES}
