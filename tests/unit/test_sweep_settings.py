"""What a sweep may ask for: values of --param, what is refused, trials and their digests."""

import pytest

from icce_ray.settings import SettingsError, load
from icce_ray.settings.sweep import Param, Range, Sweep, trials
from tests.failures import fails

BASE = load({"source": "images", "out": "run", "clusters": 10}, config="paper")


def points(*params, base=BASE, **options):
    return trials(base, Sweep.of(list(params), **options))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("neighbors.threshold=0.1:1.0:0.1", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        ("neighbors.threshold=0.3:0.5:0.15", (0.3, 0.45)),
        ("clusters=5:20:5", (5, 10, 15, 20)),
        ("heads.ce_weight=0:1:1", (0, 1)),
        (" heads.ce_weight = 0,0.5,1 ", (0, 0.5, 1)),
        ("heads.teacher=softmax,sinkhorn", ("softmax", "sinkhorn")),
        ("consensus.methods=[mcla],[mcla, hbgf]", (["mcla"], ["mcla", "hbgf"])),
        ("neighbors.k_max=null,100", (None, 100)),
        ("seed=3", (3,)),
    ],
)
def test_values(text, values):
    choices = Param.parse(text).choices
    assert choices == values
    assert [type(one) for one in choices] == [type(one) for one in values]


def test_ranges_to_draw_from():
    assert Param.parse("heads.beta=0.4:1").choices == Range(0.4, 1.0, log=False, integer=False)
    assert Param.parse("heads.learning_rate=1e-5:1e-2:log").choices == Range(1e-5, 1e-2, log=True, integer=False)
    assert Param.parse("clusters=5:20").choices == Range(5.0, 20.0, log=False, integer=True)
    assert Param.parse("neighbors.k_max=5:20").choices == Range(5.0, 20.0, log=False, integer=True)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("neighbors.threshold", ["--param neighbors.threshold", "FIELD=START:STOP:STEP", "FIELD=A,B,C"]),
        ("=1,2", ["FIELD=START:STOP:STEP"]),
        ("heads.heads=", ["FIELD=START:STOP:STEP"]),
        ("heads.beta=1:0.4:0.1", ["at 1,", "0.4", "lower one first"]),
        ("heads.beta=0.4:1:0", ["step of 0", "above 0"]),
        ("heads.beta=0.4:1:-0.1", ["step of -0.1", "above 0"]),
        ("heads.beta=0:1:1e-999", ["step of 1e-999", "above 0"]),
        ("heads.beta=0:1e999", ["1e999", "1e308"]),
        ("heads.beta=0:1e300:1e-300", ["1,000,000,000", "10,000"]),
        ("heads.epochs=1:99999:1", ["99,999 values", "10,000"]),
        (f"heads.epochs={','.join(map(str, range(1, 10_002)))}", ["10,001 values", "10,000"]),
        ("heads.beta=0:1:log", ["logarithmic", "above 0"]),
        ("heads.beta=0.5,0.5", ["0.5", "twice"]),
        ("heads.beta=0.5,[", ["no list of values", "A,B,C or START:STOP:STEP"]),
        ("heads.epochs=" + "9" * 5_000, ["50 digits", "A,B,C or START:STOP:STEP"]),
        ("heads.beta=0.4:1", ["range without a step", "START:STOP:STEP", "--search random"]),
        ("embed.backbone=hog,x", ["--param embed.backbone", "share one embedding", "make a run for each"]),
        ("list.format=files", ["--param list.format", "share one embedding"]),
        ("source=a,b", ["share one embedding"]),
        ("heads.max_images=100,200", ["one sample"]),
        ("neighbors.search=torch,ivf", ["neighbours are searched once"]),
        ("neighbors.labels=a,b", ["--labels"]),
        ("resources.device=cpu,cuda", ["how fast"]),
        ("heads=3,4", ["--param heads", "heads.heads, heads.hidden"]),
        ("heads.lambda=0,1", ["--param heads.lambda", "unknown setting", "heads.heads"]),
        ("heads.epoch=3,4", ["--param heads.epoch", "unknown setting", "heads.epochs?"]),
        ("head.epochs=3,4", ["--param head.epochs", "unknown setting", "heads.epochs?"]),
        ("neighbors.threshold=0.9:1.1:0.1", ["trial neighbors.threshold=1.1", "at most 1.0"]),
        ("neighbors.k_max=40,100", ["trial neighbors.k_max=40", "k_max = 40", "k_min = 50"]),
        ("consensus.methods=mcla,hbgf", ["consensus.methods = 'mcla'", "a list"]),
        ("clusters=2.5,3", ["clusters = 2.5", "whole number"]),
    ],
)
def test_refused(text, parts):
    with fails(SettingsError, *parts) as caught:
        points(text)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("params", "options", "parts"),
    [
        ([], {}, ["--param"]),
        (["seed=0,1", "seed=2"], {}, ["--param seed", "2 times", "all its values in one"]),
        (["seed=0,1"], {"search": "best"}, ["--search best", "grid, random, asha"]),
        (["seed=0,1"], {"samples": 3}, ["--samples", "--search random or asha"]),
        (["seed=0,1"], {"search": "random"}, ["--search random", "--samples N"]),
        (["seed=0,1"], {"search": "random", "samples": 0}, ["--samples 0", "1 to 10,000"]),
        (["seed=0,1"], {"grace": 2}, ["--grace 2", "at least 1", "--search asha"]),
    ],
)
def test_options_refused(params, options, parts):
    with fails(SettingsError, *parts):
        points(*params, **options)


def test_more_trials_than_may_be(monkeypatch):
    monkeypatch.setattr("icce_ray.settings.sweep.MOST_TRIALS", 6)
    assert len(points("seed=0:1:1", "clusters=2:4:1")) == 6
    with fails(SettingsError, "more than 6 trials", "--search random"):
        points("seed=0:1:1", "clusters=2:5:1")


def test_a_run_on_true_neighbours_is_no_base():
    base = load(
        {"source": "images", "out": "run", "clusters": 10, "neighbors": {"mode": "ground_truth", "labels": "t.csv"}}
    )
    with fails(SettingsError, "ground_truth"):
        points("seed=0,1", base=base)


def test_a_grid_is_all_combinations_in_order():
    found = points("neighbors.threshold=0.2:0.3:0.1", "heads.ce_weight=0,1")
    assert [trial.params for trial in found] == [
        {"neighbors.threshold": threshold, "heads.ce_weight": weight}
        for threshold in (0.2, 0.3)
        for weight in (0.0, 1.0)
    ]
    assert [trial.index for trial in found] == [0, 1, 2, 3]
    assert found[2].settings.neighbors.threshold == 0.3
    assert found[2].settings.heads == BASE.heads.model_copy(update={"ce_weight": 0.0})
    assert str(found[1]) == "neighbors.threshold=0.2, heads.ce_weight=1"


def test_values_are_those_the_settings_understood():
    assert [trial.params["heads.learning_rate"] for trial in points("heads.learning_rate=1e-4,1e-3")] == [1e-4, 1e-3]
    weights = [trial.params["heads.ce_weight"] for trial in points("heads.ce_weight=0:1:1")]
    assert [(weight, type(weight)) for weight in weights] == [(0.0, float), (1.0, float)]


def test_a_digest_is_of_what_a_trial_depends_on():
    found = points("seed=0,1")
    assert len({trial.digest for trial in found}) == 2
    assert [trial.digest for trial in points("seed=0,1")] == [trial.digest for trial in found]
    values = {"source": "other", "out": "there", "clusters": 10, "resources": {"device": "cpu"}}
    elsewhere = load(values, config="paper")
    assert points("seed=0", base=elsewhere)[0].digest == found[0].digest
    assert points("seed=0", base=elsewhere.model_copy(update={"clusters": 11}))[0].digest != found[0].digest


def test_draws_are_those_of_the_seed_and_within_the_ranges():
    params = [
        "heads.learning_rate=1e-5:1e-2:log",
        "clusters=5:20",
        "heads.beta=0.4:1",
        "heads.teacher=softmax,sinkhorn",
    ]
    found = points(*params, search="random", samples=40)
    again = points(*params, search="random", samples=40)
    assert [trial.params for trial in found] == [trial.params for trial in again]
    assert [trial.params for trial in points(*params, search="random", samples=40, sweep_seed=1)] != [
        t.params for t in again
    ]
    assert [trial.params for trial in points(*params, search="random", samples=7)] == [t.params for t in found[:7]]
    assert all(1e-5 <= trial.params["heads.learning_rate"] <= 1e-2 for trial in found)
    assert sum(trial.params["heads.learning_rate"] < 10**-3.5 for trial in found) in range(8, 33), "log-uniform"
    assert {type(trial.params["clusters"]) for trial in found} == {int}
    assert {trial.params["heads.teacher"] for trial in found} == {"softmax", "sinkhorn"}


def test_draws_from_few_combinations_are_all_of_them_once():
    found = points("seed=0,1,2", search="random", samples=10)
    assert sorted(trial.params["seed"] for trial in found) == [0, 1, 2]


def test_names_and_what_was_asked():
    asked = Sweep.of(["neighbors.threshold=0.2:0.3:0.1", "heads.ce_weight=0,1"], labels="truth.csv")
    assert asked.default_name == "threshold+ce_weight"
    assert asked.defining()["params"] == {"neighbors.threshold": "0.2:0.3:0.1", "heads.ce_weight": "0,1"}
    assert not asked.classifier
    assert Sweep.of(["classifier.iterations=10,20"]).classifier
