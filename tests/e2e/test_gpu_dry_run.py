"""The command for the day that a GPU is there, on the CPU: the whole of it at tiny sizes."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_check_passes_at_tiny_sizes(tmp_path):
    out = tmp_path / "day.json"
    command = [sys.executable, "jobs/bench/gpu_day.py", "--dry-run", "--out", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    day = json.loads(out.read_text())
    missed = {one["name"]: one.get("reason") for one in day["checks"] if one["status"] != "passed"}
    assert missed == {}
    assert day["dry_run"]
    assert {"forward_large", "search_matmul", "linear", "label", "heads_label"} <= set(day["rates"])
