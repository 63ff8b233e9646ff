"""``bench/flow.py`` runs and prints what it promises. What it measures is no matter of a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from i3d_deploy import flow

ROOT = Path(__file__).parents[1]
PRESETS = ("ultrafast", "fast", "medium")


def test_every_method_is_rated_and_timed(tmp_path: Path) -> None:
    path = tmp_path / "flow.json"
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", ROOT / "bench" / "flow.py", "--json", path),
            *("--size", "64", "48", "--pairs", "2", "--rounds", "2", "--patience", "0", "--seeds", "1"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["used"] == {method: flow.implementation(method) for method in ("tvl1", "dis")}
    names = list(record["results"])
    assert set(record["used"].values()) < set(names)
    assert sum("DISOpticalFlow" in name for name in names) == len(PRESETS)
    for result in record["results"].values():
        assert result["errors"].keys() == record["protocol"]["motions"].keys()
        assert [turn["seconds"] > 0 for turn in result["turns"]] == [True, True]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines()]
    assert rows == ["method", "---", *names]
