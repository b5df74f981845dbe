"""The parts of a sweep that need no cluster: limits of the lists, allocation, rungs, records."""

import dataclasses
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from icce_ray.core.neighbors import Limits
from icce_ray.progress import Progress
from icce_ray.settings import load
from icce_ray.settings.sweep import Sweep, trials
from icce_ray.stages import neighbors
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.sweep import Recorder, allocation, rungs, widest
from icce_ray.stages.sweep.records import SweepRecords, TrialRecord, checkpoint_path
from icce_ray.stages.sweep.trial import Shared, TrialRun
from icce_ray.store import RunError, Store
from tests.failures import fails

DATA = Path(__file__).parents[2] / "data"
BASE = load({"source": "images", "out": "run", "clusters": 10, "heads": {"epochs": 100, "warmup_epochs": 5}})


def points(*params, **options):
    asked = Sweep.of(list(params), **options)
    return asked, trials(BASE, asked)


def test_lists_are_mined_for_the_widest_trial():
    _, found = points("neighbors.threshold=0.3,0.5", "neighbors.k_min=5,60", "clusters=5,20")
    assert widest(found, 1000) == Limits(0.3, 60, 200)
    _, found = points("neighbors.mode=fixed", "neighbors.k_min=5,7")
    assert widest(found, 1000) == Limits(1.0, 20, 20), "the objective's graph has 20"
    assert widest(found, 12).k_min == 11, "there are no more"


@pytest.mark.parametrize(
    ("name", "value", "enough"),
    [
        ("threshold", 0.4, True),
        ("threshold", 0.6, False),
        ("k_min", 25, True),
        ("k_min", 15, False),
        ("k_max", 99, False),
    ],
)
def test_which_lists_hold_others(name, value, enough):
    limits = Limits(0.5, 20, 100)
    assert limits.covers(limits)
    assert replace(limits, **{name: value}).covers(limits) == enough


def test_rungs_are_a_factor_apart_and_after_the_warmup():
    asked, (trial,) = points("seed=0", search="asha")
    assert rungs(trial, asked) == [12, 36]
    assert rungs(trial, Sweep.of(["seed=0"], search="asha", grace=5)) == [5, 15, 45]
    asked, (slow,) = points("heads.warmup_epochs=40")
    assert rungs(slow, asked) == [40]
    asked, (short,) = points("heads.epochs=5")
    assert rungs(short, asked) == []


@pytest.mark.parametrize(
    ("machine", "options", "at_once", "share"),
    [
        (("cpu", 0, 1, 2), {}, 2, {"CPU": 1}),
        (("cpu", 0, 1, 2), {"at_once": 1}, 1, {"CPU": 2}),
        (("cpu", 0, 3, 16), {"trials": 4}, 4, {"CPU": 12}),
        (("cpu", 0, 1, 2), {"at_once": 5}, 5, {"CPU": 1}),
        (("cuda", 8, 2, 64), {}, 8, {"CPU": 16, "GPU": 1.0}),
        (("cuda", 2, 1, 16), {"at_once": 8}, 8, {"CPU": 2, "GPU": 0.25}),
    ],
)
def test_allocation(machine, options, at_once, share):
    device, gpus, nodes, cores = machine
    resources = Resources(device=device, gpus=gpus, nodes=nodes, cores=cores)
    assert allocation(resources, options.get("trials", 100), options.get("at_once")) == (at_once, share)


def test_a_name_is_bound_to_one_sweep(tmp_path):
    records = SweepRecords(Store(str(tmp_path)), "one", *points("heads.ce_weight=0,1"))
    records.claim(BASE)
    records.claim(BASE.model_copy(update={"out": "elsewhere"}))
    with fails(RunError, "params.heads.ce_weight", "'0,1' there", "'0,2' now", "give another"):
        SweepRecords(records.store, "one", *points("heads.ce_weight=0,2")).claim(BASE)
    with fails(RunError, "settings.clusters", "10 there", "11 now"):
        records.claim(BASE.model_copy(update={"clusters": 11}))
    with fails(RunError, "shared: '", "there", "now"):
        records.claim(BASE.model_copy(update={"source": "other"}))


def ended(trial, state="complete", **figures):
    return TrialRecord(
        digest=trial.digest, params=trial.params, state=state, rungs=[{"epoch": 12, "score": 0.25}], figures=figures
    )


@pytest.mark.parametrize("where", ["disk", "store"])
def test_what_ended_is_read_back(tmp_path, request, where):
    server = request.getfixturevalue("moto") if where == "store" else None
    root = server.uri(f"{server.bucket()}/run") if server else str(tmp_path)
    asked, found = points("heads.ce_weight=0,1,2,3")
    records = SweepRecords(Store(root), "one", asked, found)
    records.claim(BASE)
    records.claim(BASE)
    states = [ended(found[0], objective=0.5), ended(found[1], "stopped"), ended(found[2], "failed", reason="no")]
    for one in states:
        records.store.storage.write_bytes(checkpoint_path(records.folder, one.digest), b"x")
        records.write(one)
    assert records.ended() == {one.digest: one for one in states}
    assert [one.score for one in states] == [0.5, 0.25, None]
    assert not [name for name, _ in records.store.storage.list() if name.endswith(".safetensors")]
    fewer = SweepRecords(records.store, "one", asked, found[1:2])
    assert list(fewer.ended()) == [found[1].digest], "others' files are left alone"
    records.store.storage.write_bytes(f"sweeps/one/trials/{found[0].digest}.json", b"{")
    with fails(RunError, f"{found[0].digest}.json", "delete it"):
        records.ended()


def test_results_have_a_row_for_every_trial(tmp_path):
    asked, found = points("heads.teacher=softmax,sinkhorn", "seed=0")
    records = SweepRecords(Store(str(tmp_path)), "one", asked, found)
    records.write(ended(found[0], objective=0.5, modularity=0.5, mean_neighbors=60.0))
    records.write(ended(found[1], "failed", reason="no"))
    table = records.write_results()
    assert table.select(
        ["trial", "state", "heads.teacher", "seed", "objective", "reason", "epochs", "acc"]
    ).to_pylist() == [
        {"trial": 0, "state": "complete", "heads.teacher": "softmax", "seed": 0, "objective": 0.5, "reason": None}
        | {"epochs": 100, "acc": None},
        {"trial": 1, "state": "failed", "heads.teacher": "sinkhorn", "seed": 0, "objective": None, "reason": "no"}
        | {"epochs": 12, "acc": None},
    ]
    assert records.store.storage.read_table("sweeps/one/results.parquet").equals(table)


class TuneTrial:
    """A trial as Tune hands it to callbacks."""

    def __init__(self, index, **last):
        self.config, self.last_result = {"index": index}, last


RUNGS = [{"epoch": epoch, "score": 0.1, "mean_loss": 2.0} for epoch in (12, 36)]


def test_a_trial_that_ends_is_written_once(tmp_path):
    asked, found = points("heads.ce_weight=0,1,2")
    records = SweepRecords(Store(str(tmp_path)), "one", asked, found)
    before, checks = {found[0].digest: ended(found[0], objective=0.5)}, []
    recorder = Recorder(records, before, Progress(), lambda: checks.append(1))
    recorder.on_trial_result(1, [], TuneTrial(1), RUNGS[0] | {"rungs": RUNGS[:1], "pid": 7})
    recorder.on_trial_complete(1, [], TuneTrial(1, **RUNGS[1], rungs=RUNGS, done=True, pid=7))
    recorder.on_trial_result(1, [], TuneTrial(0), RUNGS[0])  # a replay
    recorder.on_trial_complete(1, [], TuneTrial(0, epoch=100, score=0.5))
    last = {"state": "complete", "figures": {"objective": 0.7}, "seconds": 3.0, "epoch": 100, "rungs": RUNGS}
    recorder.on_trial_complete(1, [], TuneTrial(2, **last))
    written = records.ended()
    assert written.keys() == {trial.digest for trial in found[1:]}
    stopped, complete = (written[trial.digest] for trial in found[1:])
    assert (stopped.state, stopped.rungs, stopped.score) == ("stopped", RUNGS, 0.1)
    assert (complete.state, complete.figures, complete.seconds) == ("complete", {"objective": 0.7}, 3.0)
    assert len(checks) == 2


def test_a_lock_that_was_lost_ends_the_sweep_with_its_own_error(tmp_path):
    records = SweepRecords(Store(str(tmp_path)), "one", *points("heads.ce_weight=0,1"))

    def lost():
        raise RunError("taken over")

    recorder = Recorder(records, {}, Progress(), lost)
    with fails(RunError, "taken over"):
        recorder.on_trial_complete(1, [], TuneTrial(0, rungs=RUNGS))
    assert isinstance(recorder.error, RunError)
    assert not list(tmp_path.rglob("*.json"))


class Killed(Exception):
    """A process that ends in the middle of a trial."""


@pytest.fixture
def old_run(tmp_path, monkeypatch):
    """(trials of the sweep `thresholds` of a run of 0.1.0, what they share, their records), in this process."""
    monkeypatch.setattr("ray.get", lambda arrays: arrays)
    store = Store(str(shutil.copytree(DATA / "run_of_0.1.0/run", tmp_path / "run")))
    asked = Sweep.of(["neighbors.threshold=0.5,0.7"])
    found, rows = trials(store.settings(), asked), FeatureRows.training(store)
    records = SweepRecords(store, "thresholds", asked, found)
    lists = neighbors.load(records.root, rows, similarities=True)
    arrays = {name: getattr(lists, name).numpy() for name in ("offsets", "ids", "similarities")}
    arrays |= {"features": rows.features(), "truth": np.arange(len(rows)) % 3}
    shared = Shared(rows=rows, arrays=cast(Any, arrays), device="cpu", threads=1, classifier=True)
    return found, shared, records


@pytest.mark.slow(4)
def test_a_killed_trial_goes_on_and_finds_what_it_found_in_0_1_0(old_run):
    (trial, _), shared, records = old_run
    before = records.ended()[trial.digest]
    heads = trial.settings.heads.model_copy(update={"checkpoint_epochs": 2})
    trial = dataclasses.replace(trial, settings=trial.settings.model_copy(update={"heads": heads}))

    def start(report):
        return TrialRun(trial, shared, [1, 3], checkpoint_path(records.folder, trial.digest), report)

    def die_at_3(result):
        if result["epoch"] == 3:
            raise Killed

    with pytest.raises(Killed):
        start(die_at_3).run()
    reports = []
    figures = start(reports.append).run()
    assert [report["epoch"] for report in reports] == [1, 3], "what it reported before is reported again"
    assert [len(report["rungs"]) for report in reports] == [1, 2]
    assert figures["method"] == before.figures["method"]
    for name in ("mean_neighbors", "best_head", "temi", "anmi", "mean_agreement", "modularity"):
        assert figures[name] == pytest.approx(before.figures[name], rel=1e-4), name
    assert figures["objective"] == figures["acc"]
    assert 0 < figures["classifier_acc"] <= 1
    assert 0.3 < figures["heldout_accuracy"] <= 1
