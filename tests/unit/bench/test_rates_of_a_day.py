"""`rates.py --day`: what `gpu_day.py` has measured becomes what `icce plan` rests on."""

import copy
import json

import pytest

from icce_ray.planning.rates import load_rates
from jobs.bench import rates
from tests.failures import fails

CARD = {"name": "card", "status": "passed", "figures": {"device": "NVIDIA H200", "torch": "2.13.0", "cuda": "13.0"}}
DAY = {
    "date": "2026-12-01",
    "command": "python jobs/bench/gpu_day.py --out day.json",
    "card": "h200",
    "dry_run": False,
    "checks": [CARD, {"name": "embed", "status": "skipped", "reason": "ray not installed"}],
    "rates": {"heads_matmul": 4.56789e14, "heads_memory": 4.1e12},
}


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Writes a day into a copy of the file of rates; the rates then."""
    file = tmp_path / "rates.yaml"
    file.write_text(rates.FILE.read_text())
    monkeypatch.setattr(rates, "FILE", file)

    def write(**changes):
        day = tmp_path / "day.json"
        day.write_text(json.dumps(copy.deepcopy(DAY) | changes))
        monkeypatch.setattr("sys.argv", ["rates.py", "--write", "--day", str(day)])
        rates.main()
        return load_rates(str(file))

    write.file = file
    return write


def test_measured_rates_take_the_place_of_those_that_are_counted(written):
    before = load_rates()
    found = written()
    card = found.gpu("h200")
    rate = card.rate("heads_matmul", found.shares["heads_matmul"])
    assert (rate.value, rate.unit) == (4.57e14, "FLOP/s/GPU")
    assert card.rates["heads_memory"].unit == "B/s/GPU"
    source = "measured 2026-12-01 on one NVIDIA H200, torch 2.13.0, CUDA 13.0 with `python jobs/bench/gpu_day.py"
    assert rate.source.startswith(source)
    assert card.rate("linear", found.shares["linear"]).counted is not None
    same = found.model_dump(), before.model_dump()
    for one in same:
        del one["gpus"]["h200"], one["measurements"]
    assert same[0] == same[1]


def test_of_two_days_nothing_has_the_date_of_the_other(written):
    written()
    found = written(rates={"heads_memory": 4.2e12}, date="2026-12-02").gpu("h200")
    assert {name: str(rate.measured.date) for name, rate in found.rates.items()} == {"heads_memory": "2026-12-02"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dry_run": True}, ["a dry run on a CPU"]),
        ({"checks": [CARD, {"name": "mine", "status": "failed"}]}, ["mine failed"]),
        ({"card": None}, ["NVIDIA H200", "knows h100, h200", "published peaks"]),
    ],
)
def test_what_is_no_measurement_is_refused(written, changes, words):
    before = written.file.read_text()
    with fails(SystemExit, "day.json", *words):
        written(**changes)
    assert written.file.read_text() == before
