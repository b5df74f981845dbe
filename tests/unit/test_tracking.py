"""The way of figures to metrics.jsonl and TensorBoard: each once, also when killed, repeated or refused."""

import threading
from pathlib import Path

import pytest

from icce_ray import trackers, tracking
from icce_ray.io.storage import Storage
from icce_ray.progress import Progress
from icce_ray.stages import tracking as stages
from icce_ray.stages.tracking import StepLog
from icce_ray.store import RunError
from icce_ray.trackers import make_tracker, missing_packages
from icce_ray.tracking import EventLog, TrackingError, read_events
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
            log.step("heads", step, {"mean_loss": 1 / step})
        log.summary("heads", {"heads": 5})
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
            log.step("heads", step, {"mean_loss": -float(step)})
    again = Listener()
    with event_log(storage, tensorboard(storage) | {"again": again}) as log:
        for step in (2, 3, 4):
            log.step("heads", step, {"mean_loss": 100.0 if step < 4 else -4.0})
        log.step("heads", 4, {"mean_loss": 100.0})
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
        log.step("embed", 10, {"images_per_second": 5.0})
        log.step("heads", 1, {"mean_loss": -1.0})
        log.summary("heads", {"heads": 5})
    first = read_events(storage, PATH)[0].id
    listener = Listener()
    with event_log(storage, tensorboard(storage) | {"other": listener}, forget=["heads"]) as log:
        log.step("heads", 1, {"mean_loss": -9.0})
    assert keys(storage) == [("embed", "step", 10), ("run", "begin", 0), ("heads", "step", 1)]
    found = curves(storage_path(storage) / "tensorboard")
    assert found == {"embed/images_per_second": [(10, 5.0)], "heads/mean_loss": [(1, -9.0)]}
    assert listener.run.id != first
    assert [line.stage for line in listener.before] == ["embed"]


def test_a_step_that_comes_late_takes_its_place(storage):
    """TensorBoard drops what follows a step that goes back."""
    with event_log(storage, tensorboard(storage)) as log:
        for step in (1, 2, 5):
            log.step("heads", step, {"mean_loss": float(step)})
        log.summary("embed", {})  # written at once
        wait_for(lambda: ("embed", "summary", 0) in keys(storage), "what is written at once")
        log.step("heads", 3, {"mean_loss": 3.0})
    assert [step for step, _ in curves(storage_path(storage) / "tensorboard")["heads/mean_loss"]] == [1, 2, 3, 5]


def test_event_files_have_settings_times_and_the_versions_of_tensortensorboard(storage):
    with event_log(storage, tensorboard(storage)) as log:
        log.step("heads", 1, {"mean_loss": 0.5}, at=1e9 + 0.25)
    (path,) = (storage_path(storage) / "tensorboard").iterdir()
    first, settings, scalar = events(path)
    assert path.name.startswith("events.out.tfevents.")
    assert first.file_version == "brain.Event:2"
    assert b"heads.heads: 5" in settings.summary.value[0].tensor.string_val[0]
    assert (scalar.wall_time, scalar.step) == (1e9 + 0.25, 1)


def test_files_arrive_in_a_bucket(moto):
    storage = Storage(moto.uri(f"{moto.bucket()}/run"))
    with event_log(storage, tensorboard(storage)) as log:
        log.step("heads", 1, {"mean_loss": 0.5})
        log.summary("embed", {})
        wait_for(lambda: len(storage.list("tensorboard")) == 1, "its file")  # while the run works
        log.step("heads", 2, {"mean_loss": 0.25})
    with event_log(storage, tensorboard(storage)) as log:
        log.step("heads", 3, {"mean_loss": 0.125})
    ((name, _),) = storage.list("tensorboard")
    assert storage.read_bytes(name).count(b"heads/mean_loss") == 3
    assert [step for stage, _, step in keys(storage) if stage == "heads"] == [1, 2, 3]


def test_figures_that_are_no_numbers_are_left_out_of_curves(storage):
    with event_log(storage, tensorboard(storage)) as log:
        log.step("heads", 1, {"mean_loss": None, "best_loss": 1.0})
    assert set(curves(storage_path(storage) / "tensorboard")) == {"heads/best_loss"}


def test_a_local_file_grows_and_a_line_that_a_kill_cut_is_left_out(storage):
    path = storage_path(storage) / PATH
    with event_log(storage) as log:
        wait_for(path.exists, "the first line")
        inode = path.stat().st_ino
        for step in (1, 2):
            log.step("heads", step, {"mean_loss": 1.0})
            wait_for(lambda step=step: ("heads", "step", step) in keys(storage), "a line")
    assert path.stat().st_ino == inode, "appended, not written anew"
    path.write_bytes(path.read_bytes()[:-5])
    assert keys(storage) == [("run", "begin", 0), ("heads", "step", 1)]
    with event_log(storage) as log:
        log.step("heads", 2, {"mean_loss": 1.0})
    assert keys(storage)[2:] == [("run", "begin", 1), ("heads", "step", 2)]


# -- trackers and stores that fail -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [TrackingError("the server is gone"), OSError("the server is gone")])
def test_a_tracker_that_fails_is_named_once_and_ends_nothing(storage, fault):
    said, bad, good = [], Listener(fault), Listener()
    with event_log(storage, {"bad": bad, "good": good}, log=said.append) as log:
        for step in (1, 2, 3):
            log.summary("heads", {"mean_loss": 1.0}, step=step)
            wait_for(lambda step=step: ("heads", "summary", step) in keys(storage), "a line of the summary")
    assert said == ["WARNING: tracking, bad: the server is gone"]
    assert [line.step for line in good.heard] == [0, 1, 2, 3]


def test_figures_that_were_not_written_in_the_end_are_an_error(storage):
    """A full disk, or a store that does not answer; in between it is a warning, as the next write has all again."""

    def full(*_):
        raise OSError(28, "No space left on device", "metrics.jsonl")

    said, storage.write_bytes = [], full
    with (
        fails(TrackingError, "metrics.jsonl", "No space left", "same command"),
        event_log(storage, {"one": Listener()}, log=said.append) as log,
    ):
        log.step("heads", 1, {"mean_loss": 1.0})
    assert len([line for line in said if "No space left" in line]) == 1


def test_a_fault_nobody_foresaw_ends_the_tracker_but_neither_the_run_nor_the_file(storage, recwarn):
    said, bad, good = [], Listener(OverflowError("step does not fit")), Listener()
    with event_log(storage, {"bad": bad, "good": good}, log=said.append) as log:
        log.step("heads", 10, {"mean_loss": 1.0})
    assert said == ["WARNING: tracking, bad: OverflowError: step does not fit"]
    assert keys(storage)[1:] == [("heads", "step", 10)]
    assert good.closed == [False]
    assert not recwarn.list


def test_a_fault_of_tracking_hides_no_fault_of_the_run(storage):
    with pytest.raises(KeyError), event_log(storage, {"bad": Listener(OverflowError("step"))}):
        raise KeyError("a fault of the run")


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
        log.step("heads", 1, {})
    assert said == ["WARNING: tracking, slow: no answer in 0 s, not waiting"]
    over.set()


def test_a_driver_that_lost_the_run_writes_nothing(storage):
    def check():
        raise RunError("another driver has the run")

    with event_log(storage, tensorboard(storage), check=check) as log:
        log.summary("heads", {"mean_loss": 1.0})
    assert storage.list() == []


def test_trackers_learn_how_it_ended(storage):
    listener = Listener()
    with pytest.raises(KeyError), event_log(storage, {"one": listener}):
        raise KeyError("a fault of the run")
    assert listener.closed == [True]


def test_packages_that_are_missing(monkeypatch):
    assert missing_packages(["tensorboard"]) == []
    monkeypatch.setitem(trackers.PACKAGES, "mlflow", "no_such_package")
    assert missing_packages(["tensorboard", "mlflow"]) == ["mlflow"]


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
