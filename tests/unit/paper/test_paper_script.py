"""`jobs/paper.py`: one table a study, figures kept between calls, and faults said before work."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]


MAIN = runpy.run_path(str(ROOT / "jobs/paper.py"))["main"]


@pytest.fixture
def script(capsys, monkeypatch):
    """Runs the script in this process: what it printed, and what it logged."""

    def run(*arguments, status=None):
        monkeypatch.setattr(sys, "argv", ["paper.py", *map(str, arguments)])
        if status is None:
            MAIN()
        else:
            with pytest.raises(SystemExit) as ended:
                MAIN()
            assert ended.value.code == status
        return capsys.readouterr()

    return run


def test_help_teaches(script):
    text, _ = script("--help", status=0)
    assert "Example: python jobs/paper.py ladder thresholds --on digits" in text
    assert "rivals" in text


def test_a_study_on_ones_own_features(script, tmp_path):
    generator = np.random.default_rng(0)
    classes = np.repeat(np.arange(4), 60)
    centres = 4.0 * generator.normal(size=(4, 16))
    np.save(tmp_path / "x.npy", (centres[classes] + generator.normal(size=(240, 16))).astype(np.float32))
    np.save(tmp_path / "y.npy", classes)
    asked = ["validation", "--on", tmp_path / "x.npy", "--labels", tmp_path / "y.npy", "--seeds", 0]
    asked += ["--epochs", 2, "--kept", tmp_path / "kept.jsonl"]
    first, log = script(*asked)
    assert "### Table 10: validation-set ensembling" in first
    assert "| ICCE |" in first
    assert "validation: ICCE, seed 0:" in log
    again, log = script(*asked)
    assert (again, log) == (first, "")


@pytest.mark.slow(20)
def test_a_threshold_and_a_number_of_clusters_are_found_for_a_set(script, tmp_path):
    asked = ["unknown_k", "--on", "synthetic", "--classes", 5, "--images", 300, "--seeds", 0, "--epochs", 4]
    asked += ["--threshold", "auto", "--cluster-range", 4, 12, "--kept", tmp_path / "kept.jsonl"]
    text, _ = script(*asked)
    assert "threshold 0.3," not in text
    assert "True K = 5; found in 4 to 12" in text


def test_a_set_that_is_none(script, tmp_path):
    script(
        "ladder",
        "--on",
        "photos",
        status="--on photos: give synthetic, digits, a .parquet file, or a .npy file with --labels",
    )
    script(
        "ladder",
        "--on",
        tmp_path / "none.parquet",
        status=f"{tmp_path}/none.parquet: there is no such file; give the path of a .parquet file, or of .npy files",
    )
    _, log = script("tables", status=2)
    assert "invalid choice: 'tables'" in log


@pytest.mark.slow(10)
def test_the_curve_is_a_table_of_nine_thresholds(script):
    text, _ = script("curve", "--curve-images", 6425)
    rows = [line for line in text.splitlines() if line.startswith("| 0.")]
    assert len(rows) == 9
    offs = [abs(float(row.split("|")[4])) for row in rows]
    assert max(offs) < 25  # k_min is 2 instead of 2.5 here; at full size 6
