"""The way of figures to metrics.jsonl and TensorBoard: each once, also when killed, repeated or refused."""

import json
import math
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from icce_ray import tracking
from icce_ray.io.storage import Storage, StorageError
from icce_ray.progress import Progress
from icce_ray.stages import tracking as stages
from icce_ray.stages.tracking import StepLog
from icce_ray.store import RunError
from icce_ray.trackers import make_tracker
from icce_ray.tracking import Event, EventLog, TrackingError, read_events, scalars
from tests.failures import fails
from tests.processes import wait_for
from tests.tensorboard_events import curves, events

PATH = "metrics.jsonl"


class Listener:
    """A tracker that remembers; `fails` when it is given something."""

    def __init__(self, fails=None):
        self.fails, self.run, self.before, self.heard, self.closed = fails, None, [], [], []

    def open(self, run, lines):
        self.run, self.before = run, list(lines)

    def log(self, lines):
        if self.fails:
            raise self.fails
        self.heard += lines

    def close(self, *, failed):
        self.closed.append(failed)


def event_log(storage, to=None, **options):
    return EventLog(storage, PATH, to or {}, name="a run", params={"heads.heads": 5}, **options)


def tensorboard(storage):
    return {"tensorboard": make_tracker("tensorboard", storage=storage, folder="tensorboard", experiment="any")}


def keys(storage):
    """(stage, event, step) of each line."""
    return [(line.stage, line.event, line.step) for line in read_events(storage, PATH)]


def storage_path(storage):
    return Path(storage.full_path())


@pytest.fixture(autouse=True)
def often(monkeypatch):
    for name in ("LOCAL_SECONDS", "OBJECT_SECONDS"):
        monkeypatch.setattr(tracking, name, 0.05)


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "run"))


def test_every_line_reaches_the_file_and_all_trackers(storage):
    one, two = Listener(), Listener()
    with event_log(storage, {"one": one, "two": two}) as log:
        for step in range(1, 200):
            log.add("heads", "step", step, {"mean_loss": 1 / step})
        log.add("heads", "summary", 0, {"heads": 5})
    lines = read_events(storage, PATH)
    assert one.heard == two.heard
    assert [line.tagged() for line in one.heard] == [line.tagged() for line in lines]
    assert keys(storage)[1:] == [*(("heads", "step", step) for step in range(1, 200)), ("heads", "summary", 0)]
    assert lines[0].to == ("one", "two")
    assert one.closed == [False]
    assert (one.run.name, one.run.params) == ("a run", {"heads.heads": 5})


def test_no_step_twice_when_the_run_goes_on(storage):
    """A killed driver logged more epochs than its checkpoint knows."""
    with event_log(storage, tensorboard(storage)) as log:
        for step in (1, 2, 3):
            log.add("heads", "step", step, {"mean_loss": -float(step)})
    again = Listener()
    with event_log(storage, tensorboard(storage) | {"again": again}) as log:
        for step in (2, 3, 4):
            log.add("heads", "step", step, {"mean_loss": 100.0 if step < 4 else -4.0})
        log.add("heads", "step", 4, {"mean_loss": 100.0})
    steps = [(step, -float(step)) for step in (1, 2, 3, 4)]
    assert curves(storage_path(storage) / "tensorboard")["heads/mean_loss"] == steps
    assert keys(storage) == [
        ("run", "begin", 0),
        *(("heads", "step", step) for step in (1, 2, 3)),
        ("run", "begin", 1),
        ("heads", "step", 4),
    ]
    assert [line.step for line in again.before] == [0, 1, 2, 3]
    begun = [line for line in read_events(storage, PATH) if line.event == "begin"]
    assert {line.id for line in begun} == {again.run.id}


def test_what_is_repeated_leaves_nothing_and_is_a_new_run_to_others(storage):
    with event_log(storage, tensorboard(storage)) as log:
        log.add("embed", "step", 10, {"images_per_second": 5.0})
        log.add("heads", "step", 1, {"mean_loss": -1.0})
        log.add("heads", "summary", 0, {"heads": 5})
    first = read_events(storage, PATH)[0].id
    listener = Listener()
    with event_log(storage, tensorboard(storage) | {"other": listener}, forget=["heads"]) as log:
        log.add("heads", "step", 1, {"mean_loss": -9.0})
    assert keys(storage) == [("embed", "step", 10), ("run", "begin", 0), ("heads", "step", 1)]
    found = curves(storage_path(storage) / "tensorboard")
    assert found == {"embed/images_per_second": [(10, 5.0)], "heads/mean_loss": [(1, -9.0)]}
    assert listener.run.id != first
    assert [line.stage for line in listener.before] == ["embed"]


def test_a_step_that_comes_late_takes_its_place(storage):
    """TensorBoard drops what follows a step that goes back."""
    with event_log(storage, tensorboard(storage)) as log:
        for step in (1, 2, 5):
            log.add("heads", "step", step, {"mean_loss": float(step)})
        log.add("embed", "summary", 0, {})  # written at once
        wait_for(lambda: ("embed", "summary", 0) in keys(storage), "what is written at once")
        log.add("heads", "step", 3, {"mean_loss": 3.0})
    assert [step for step, _ in curves(storage_path(storage) / "tensorboard")["heads/mean_loss"]] == [1, 2, 3, 5]


def test_event_files_have_settings_times_and_the_version_of_tensorboard(storage):
    with event_log(storage, tensorboard(storage)) as log:
        log.add("heads", "step", 1, {"mean_loss": 0.5}, at=datetime.fromtimestamp(1e9 + 0.25, UTC))
    (path,) = (storage_path(storage) / "tensorboard").iterdir()
    first, settings, scalar = events(path)
    assert path.name.startswith("events.out.tfevents.")
    assert first.file_version == "brain.Event:2"
    assert b"heads.heads: 5" in settings.summary.value[0].tensor.string_val[0]
    assert (scalar.wall_time, scalar.step) == (1e9 + 0.25, 1)


def test_files_arrive_in_a_bucket(moto):
    storage = Storage(moto.uri(f"{moto.bucket()}/run"))
    with event_log(storage, tensorboard(storage)) as log:
        log.add("heads", "step", 1, {"mean_loss": 0.5})
        log.add("embed", "summary", 0, {})
        wait_for(lambda: len(storage.list("tensorboard")) == 1, "its file")  # while the run works
        log.add("heads", "step", 2, {"mean_loss": 0.25})
    with event_log(storage, tensorboard(storage)) as log:
        log.add("heads", "step", 3, {"mean_loss": 0.125})
    ((name, _),) = storage.list("tensorboard")
    assert storage.read_bytes(name).count(b"heads/mean_loss") == 3
    assert [step for stage, _, step in keys(storage) if stage == "heads"] == [1, 2, 3]


def test_a_local_file_grows_and_a_line_that_a_kill_cut_is_left_out(storage):
    path = storage_path(storage) / PATH
    with event_log(storage) as log:
        wait_for(path.exists, "the first line")
        inode = path.stat().st_ino
        for step in (1, 2):
            log.add("heads", "step", step, {"mean_loss": 1.0})
            wait_for(lambda step=step: ("heads", "step", step) in keys(storage), "a line")
    assert path.stat().st_ino == inode, "appended, not written anew"
    path.write_bytes(path.read_bytes()[:-5])
    assert keys(storage) == [("run", "begin", 0), ("heads", "step", 1)]
    with event_log(storage) as log:
        log.add("heads", "step", 2, {"mean_loss": 1.0})
    assert keys(storage)[2:] == [("run", "begin", 1), ("heads", "step", 2)]


# -- trackers and stores that fail -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (TrackingError("the server is gone"), "the server is gone"),
        (OSError("the server is gone"), "the server is gone"),
        (OverflowError("step does not fit"), "OverflowError: step does not fit"),
    ],
)
def test_a_tracker_that_fails_is_named_once_and_ends_nothing(storage, recwarn, fault, text):
    said, bad, good = [], Listener(fault), Listener()
    with event_log(storage, {"bad": bad, "good": good}, log=said.append) as log:
        for step in (1, 2, 3):
            log.add("heads", "summary", step, {"mean_loss": 1.0})
            wait_for(lambda step=step: ("heads", "summary", step) in keys(storage), "a line of the summary")
    assert said == [f"WARNING: tracking, bad: {text}"]
    assert [line.step for line in good.heard] == [0, 1, 2, 3]
    assert good.closed == [False]
    assert not recwarn.list


def test_figures_that_were_not_written_in_the_end_are_an_error(storage):
    """A full disk, or a store that does not answer; in between it is a warning, as the next write has all again."""

    def full(*_):
        raise OSError(28, "No space left on device", "metrics.jsonl")

    said, storage.write_bytes = [], full
    with (
        fails(TrackingError, "metrics.jsonl", "No space left", "same command"),
        event_log(storage, {"one": Listener()}, log=said.append) as log,
    ):
        log.add("heads", "step", 1, {"mean_loss": 1.0})
    assert len([line for line in said if "No space left" in line]) == 1


def test_a_fault_of_tracking_hides_no_fault_of_the_run(storage):
    good = Listener()
    with pytest.raises(KeyError), event_log(storage, {"bad": Listener(OverflowError("step")), "good": good}):
        raise KeyError("a fault of the run")
    assert good.closed == [True]  # trackers learn how it ended


def test_one_that_cannot_be_opened_closes_those_that_were(storage):
    good, bad = Listener(), Listener()
    bad.open = lambda run, lines: (_ for _ in ()).throw(TrackingError("no key"))
    with fails(TrackingError, "no key"), event_log(storage, {"good": good, "bad": bad}):
        pass
    assert good.closed == [True]
    assert keys(storage) == []


def test_the_end_does_not_wait_for_one_that_hangs(storage, monkeypatch):
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    said, over, slow = [], threading.Event(), Listener()
    slow.log = lambda lines: over.wait(10)
    with event_log(storage, {"slow": slow}, log=said.append) as log:
        log.add("heads", "step", 1, {})
    assert said == ["WARNING: tracking, slow: no answer in 0 s, not waiting"]
    over.set()


def test_a_driver_that_lost_the_run_writes_nothing(storage):
    def check():
        raise RunError("another driver has the run")

    with event_log(storage, tensorboard(storage), check=check) as log:
        log.add("heads", "summary", 0, {"mean_loss": 1.0})
    assert storage.list() == []


# -- a stage's reports -------------------------------------------------------------------------------------------------


def test_reports_are_logged_with_their_rate_and_shown_all_the_same(storage, monkeypatch):
    clock, shown = [0.0], Progress()
    monkeypatch.setattr(stages.time, "monotonic", lambda: clock[0])
    seen = []
    shown.update = lambda done, **facts: seen.append((done, facts))
    with event_log(storage) as log:
        steps = StepLog("heads", shown, log)
        steps.begin(400, done=10, unit="epochs")
        steps.update(10, mean_loss=0.0)  # nothing new
        clock[0] = 2.0
        steps.update(11, mean_loss=-1.0, now="text")
        steps.update(11, mean_loss=-2.0)
    assert [step for step, _ in seen] == [10, 11, 11]
    (line,) = read_events(storage, PATH)[1:]
    assert (line.step, line.figures) == (11, {"mean_loss": -1.0, "epochs_per_second": 0.5})


def test_work_in_many_parts_is_logged_in_few(storage):
    with event_log(storage) as log:
        steps = StepLog("embed", Progress(), log)
        steps.begin(1_000_000, unit="images")
        for done in range(100, 1_000_001, 100):
            steps.update(done)
    found = [line.step for line in read_events(storage, PATH)[1:]]
    assert len(found) == stages.MOST_STEPS
    assert found[-1] == 1_000_000


# -- lines -------------------------------------------------------------------------------------------------------------

MOMENT = datetime.fromtimestamp(1e9 + 0.125, UTC)
STEP = Event(time=MOMENT, stage="heads", event="step", step=3, figures={"mean_loss": -1.5, "worst_loss": None})


def test_lines_come_back_and_are_json_that_anyone_can_read(tmp_path):
    lines = [Event(time=MOMENT, stage="run", event="begin", step=0, figures={}, id="ab12", to=("tensorboard",)), STEP]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(line.encoded() for line in lines))
    assert read_events(Storage(str(tmp_path)), "metrics.jsonl") == lines
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1]) == {
        "time": "2001-09-09T01:46:40.125+00:00",
        "stage": "heads",
        "event": "step",
        "step": 3,
        "figures": {"mean_loss": -1.5, "worst_loss": None},
    }


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"{\n",
            b"[]\n",
            b'{"time": "now"}\n',
            b"\xff\n",
            b'{"time": "2001-09-09", "step": 1}\n',
            b"[" * 99_999 + b"\n",
        ),
        *(STEP.encoded().replace(b"-1.5", value) for value in (b"NaN", b'"x"')),
        STEP.encoded().replace(b"3,", b"1e99,"),
        STEP.encoded().replace(b'"heads"', b"7"),
        STEP.encoded().replace(b"}", b""),
    ],
)
def test_a_damaged_file_is_an_error(tmp_path, data):
    (tmp_path / PATH).write_bytes(data)
    with fails(StorageError, tmp_path / PATH, "delete it"):
        read_events(Storage(str(tmp_path)), PATH)


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
    summary = Event(time=MOMENT, stage="heads", event="summary", step=0, figures={"heads": 4})
    assert (STEP.tagged(), summary.tagged()) == ([("heads/mean_loss", -1.5)], [("heads/summary/heads", 4)])
