"""The lines of metrics.jsonl: what goes in comes out, and is JSON that anyone can read."""

import json
import math

from icce_ray.io.storage import Storage, StorageError
from icce_ray.tracking import Event, read_events, scalars
from tests.failures import fails


def test_lines_come_back(tmp_path):
    lines = [
        Event(time=1e9, stage="run", event="begin", step=0, figures={}, id="ab12", to=("tensorboard",)),
        Event(time=1e9 + 0.125, stage="heads", event="step", step=3, figures={"mean_loss": -1.5, "worst_loss": None}),
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(line.encoded() for line in lines))
    assert read_events(Storage(str(tmp_path)), "metrics.jsonl") == lines
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1]) == {
        "time": "2001-09-09T01:46:40.125+00:00",
        "stage": "heads",
        "event": "step",
        "step": 3,
        "figures": {"mean_loss": -1.5, "worst_loss": None},
    }


def test_no_file_is_no_line_and_a_damaged_one_an_error(tmp_path):
    storage = Storage(str(tmp_path))
    assert read_events(storage, "metrics.jsonl") == []
    good = Event(time=1e9, stage="heads", event="step", step=3, figures={"mean_loss": -1.5}).encoded()
    changes = [
        (b"-1.5", b"NaN"),
        (b"-1.5", b'"x"'),
        (b"3,", b"1e99,"),
        (b'"heads"', b"7"),
        (b"}", b""),
    ]
    damaged = [
        b"{\n",
        b"[]\n",
        b'{"time": "now"}\n',
        b"\xff\n",
        b'{"time": "2001-09-09", "step": 1}\n',
        b"[" * 99_999 + b"\n",
    ]
    for data in [*damaged, *(good.replace(*change) for change in changes)]:
        (tmp_path / "metrics.jsonl").write_bytes(data)
        with fails(StorageError, tmp_path / "metrics.jsonl", "delete it"):
            read_events(storage, "metrics.jsonl")


def test_the_numbers_among_figures():
    found = scalars(
        {
            "anmi": 0.5,
            "method": "mcla",
            "fine": True,
            "nothing": None,
            "scores": {"mcla": 1, "deeper": {"x y": 2}},
            "temi": [1.0, 2.0, 6.0],
            "alarms": [{"name": "stopped"}],
            "none": [],
            "loss": math.nan,
        }
    )
    assert found == {
        "anmi": 0.5,
        "scores/mcla": 1,
        "scores/deeper/x_y": 2,
        "temi/mean": 3.0,
        "temi/min": 1.0,
        "temi/max": 6.0,
        "alarms": 1,
        "none": 0,
        "loss": None,
    }


def test_names_among_all_stages():
    step = Event(time=0, stage="heads", event="step", step=1, figures={"mean_loss": 1.0, "worst_loss": None})
    summary = Event(time=0, stage="heads", event="summary", step=0, figures={"heads": 4})
    assert (step.tagged(), summary.tagged()) == ([("heads/mean_loss", 1.0)], [("heads/summary/heads", 4)])
