"""What a plan must do whatever the rates are."""

import itertools

import pytest

from icce_ray.planning.plan import STAGES, make_plan
from icce_ray.planning.rates import PlanError, load_rates
from icce_ray.settings import load
from tests.failures import fails

CONSTANT = ("neighbors", "heads", "consensus", "classifier")
MILLION = 10**6
PRICES = {"gpu_price": 2.0, "cpu_price": 0.05}


def planned(images, *, clusters=1000, image_kb=100, rates=None, net=1000.0, prices=PRICES, **others):
    gpus, gpu_type, cpus = others.pop("gpus", 8), others.pop("gpu_type", "h100"), others.pop("cpus", 256)
    settings = load({"source": "s", "out": "o", "clusters": clusters, **others})
    machines = {"gpus": gpus, "gpu_type": gpu_type, "cpus": cpus, "network_gbit": net, **prices}
    return make_plan(settings, rates or load_rates(), machines, images=images, image_bytes=1e3 * image_kb)


def of(plan, stage):
    return next(one for one in plan.stages if one.stage == stage)


def part(plan, stage, name):
    return next(one for one in of(plan, stage).parts if one.name == name)


@pytest.mark.parametrize("gpus", [0, 8])
def test_more_images_take_more_of_everything(gpus):
    # Of fewer images there are more epochs, and a checkpoint after every tenth.
    sizes = (20_000, 200_000, 10**6, 3 * 10**6, 10**8, 10**9)
    # Other methods of the consensus take their time up to a size that they refuse.
    plans = [planned(n, gpus=gpus, consensus={"methods": ["mcla"]}) for n in sizes]
    for less, more in itertools.pairwise(plans):
        for name, value in less.total.items():
            assert value < more.total[name] or (name == "gpu_seconds" and not gpus), name
        for stage in ("list", "embed", "predict"):
            assert of(less, stage).seconds < of(more, stage).seconds


def test_above_the_sample_only_what_sees_every_image_grows():
    small, large = planned(10**7), planned(10**9)
    for stage in CONSTANT:
        assert of(small, stage) == of(large, stage)
    fixed = load_rates().fixed["embed"].value
    assert of(large, "embed").seconds - fixed == pytest.approx(100 * (of(small, "embed").seconds - fixed))
    assert of(large, "sample").seconds > of(small, "sample").seconds
    assert of(planned(2 * MILLION), "sample").storage == 0 < of(planned(2 * MILLION + 1), "sample").storage


def test_more_gpus_make_the_time_shorter_and_the_hours_no_fewer():
    one, two = planned(10**8, gpus=5), planned(10**8, gpus=10)
    assert of(one, "embed").bottleneck == "forward"
    for stage, name in (("embed", "forward"), ("neighbors", "search"), ("heads", "train")):
        a, b = part(one, stage, name), part(two, stage, name)
        assert b.seconds == pytest.approx(a.seconds / 2)
        assert b.gpu_seconds == a.gpu_seconds > 0
    fixed = load_rates().fixed["embed"].value
    assert of(two, "embed").seconds - fixed == pytest.approx((of(one, "embed").seconds - fixed) / 2)
    assert of(two, "embed").gpu_seconds == pytest.approx(of(one, "embed").gpu_seconds, rel=0.05)
    assert part(two, "classifier", "train") == part(one, "classifier", "train")  # one device, however many there are


def test_the_worker_with_most_heads_is_waited_for():
    even, uneven = planned(MILLION, gpus=10), planned(MILLION, gpus=9)
    assert part(even, "heads", "train").seconds < part(uneven, "heads", "train").seconds
    one_checkpoint = planned(MILLION, gpus=9, heads={"heads": 50, "checkpoint_epochs": 10**6})
    seconds = {one.name: one.seconds for one in of(one_checkpoint, "heads").parts}
    others = ("checkpoints", "upload of checkpoints", "load", "number", "download", "begin and end")
    work = of(one_checkpoint, "heads").seconds - sum(seconds[name] for name in others)
    assert work == pytest.approx(6 * 9 / 50 * (seconds["train"] + seconds["label"]))
    assert of(planned(MILLION, gpus=64), "heads").gpus_held == 50


def test_loading_is_of_all_lists_into_every_worker():
    one, eight = planned(MILLION, gpus=1), planned(MILLION, gpus=8)
    rate = load_rates().host["row_numbers"].value
    assert part(one, "heads", "number").seconds == pytest.approx(MILLION * 1000 / rate)
    assert part(eight, "heads", "number").seconds == part(one, "heads", "number").seconds  # side by side
    assert part(eight, "heads", "download").seconds == pytest.approx(8 * part(one, "heads", "download").seconds)


def test_checkpoints_are_waited_for_where_they_take_longer_than_what_is_trained_between():
    heads = {"heads": 50, "epochs": 400}
    rare, often = (planned(MILLION, heads=heads | {"checkpoint_epochs": every}) for every in (100, 10))
    assert part(often, "heads", "checkpoints").seconds == pytest.approx(10 * part(rare, "heads", "checkpoints").seconds)
    assert of(often, "heads").seconds == pytest.approx(of(rare, "heads").seconds)
    slow = planned(MILLION, heads=heads | {"checkpoint_epochs": 10}, net=0.1)
    written = part(slow, "heads", "upload of checkpoints").seconds
    assert written > part(slow, "heads", "train").seconds
    loaded, label = part(slow, "heads", "download").seconds, part(slow, "heads", "label").seconds
    assert of(slow, "heads").seconds > loaded + written + label


def test_what_the_code_does_in_half_precision_is_not_counted_in_float32():
    shares = load_rates().shares
    assert {name for name, share in shares.items() if share.of == "float32"} == {"heads_label"}


def test_the_bottleneck_follows_the_machines():
    def bottleneck(**machines):
        return of(planned(10**8, **machines), "embed").bottleneck

    assert bottleneck() == "forward"
    assert bottleneck(cpus=8) == "decode"
    assert bottleneck(net=1.0) == "download"
    assert bottleneck(net=0.05, image_kb=1) == "upload"


def test_embed_takes_as_long_as_its_slowest_resource():
    embed = of(planned(10**8, cpus=8), "embed")
    cores = sum(one.seconds for one in embed.parts if one.resource == "CPU")
    assert embed.seconds == pytest.approx(cores + load_rates().fixed["embed"].value)


def test_without_gpus_everything_is_measured_and_on_cores():
    plan = planned(10**5, gpus=0, gpu_type="none")
    assert plan.total["gpu_seconds"] == 0
    assert {one.basis for stage in plan.stages for one in stage.parts} <= {"measured", "given"}


def test_what_nobody_measured_is_called_counted():
    rates = load_rates()
    cards = {name: card.model_copy(update={"rates": {}}) for name, card in rates.gpus.items()}
    plan = planned(10**8, rates=rates.model_copy(update={"gpus": cards}))
    on_gpu = [one for stage in plan.stages for one in stage.parts if one.gpu_seconds]
    assert len(on_gpu) >= 6
    assert {one.basis for one in on_gpu} == {"counted"}
    on_cores = {"list", "sample", "consensus", "predict", "inspect"}
    assert {one.stage for one in plan.stages if one.basis == "measured"} == on_cores
    known = plan.model_dump()["rates"]
    assert "counted" in known["forward_large"]
    assert "measured" in known["decode"]


def test_features_and_lists_have_their_bytes():
    plan, names = planned(10**9), load_rates().host["id_bytes"].value
    assert of(plan, "embed").storage == 10**9 * (2 * 2048 + names)
    assert of(plan, "neighbors").storage == 2 * MILLION * (12 * 2000 + names)
    heads = of(plan, "heads")
    assert heads.device_memory > 2 * MILLION * (2 * 2048 + 4 * 2000)
    weights = 50 * 4 * (2049 * 512 + 513 * 256 + 256 * 1000)
    assert heads.storage == weights + 2 * MILLION * (4 * 50 + names)
    cls = planned(10**9, embed={"features": "cls", "n_last_blocks": 4})
    assert of(cls, "embed").storage == 10**9 * (2 * 5 * 1024 + names)


def test_methods_end_where_they_refuse():
    def methods(images):
        return {one.name for one in of(planned(images, heads={"heads": 50}), "consensus").parts}

    assert {"cspa", "hgpa", "hbgf", "mcla"} <= methods(20_000)
    assert methods(200_000) & {"cspa", "hgpa", "hbgf"} == {"hbgf"}
    assert methods(200_001) & {"cspa", "hgpa", "hbgf"} == set()


def test_lists_that_do_not_fit_are_warned_of():
    assert planned(10**9).warnings == ()
    crowded = planned(10**9, clusters=10)
    assert any(line.startswith("heads: 1,6") and "neighbors.k_max" in line for line in crowded.warnings)


def test_fewer_probes_search_faster():
    exact, approximate = planned(10**9), planned(10**9, neighbors={"search": "ivf"})
    quarter = planned(10**9, neighbors={"search": "ivf", "ivf_lists": 100, "ivf_probes": 25})
    times = [part(plan, "neighbors", "search").seconds for plan in (exact, approximate, quarter)]
    assert times[1] == pytest.approx(times[0] / 8)
    assert times[2] == pytest.approx(times[0] / 4)


def test_prices_are_of_all_machines_from_begin_to_end():
    plan = planned(10**8)
    assert plan.total["cost"] == pytest.approx((8 * 2.0 + 256 * 0.05) * plan.total["seconds"] / 3600)
    assert planned(10**8, prices={}).total["cost"] is None


def test_every_stage_of_the_pipeline_is_planned():
    from icce_ray import pipeline

    assert list(STAGES) == ["list", *pipeline.STAGES]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpu_type": "tpu"}, "gpus.tpu"),
        ({"embed": {"features": "hog"}}, "'hog'"),
        ({"embed": {"features": "pooled"}}, "'pooled'"),  # of DINOv2
        ({"embed": {"image_size": 225}}, "image_size 225"),
        ({"embed": {"backbone": "hog", "n_last_blocks": 4}}, "n_last_blocks is 4"),
        ({"embed": {"backbone": ["hog", "facebook/dinov2-base"]}}, "2 backbones"),
        ({"gpus": -1}, "gpus = -1"),
        ({"net": 0.0}, "network_gbit = 0.0"),
        ({"image_kb": float("nan")}, "image_bytes = nan"),
        ({"clusters": "auto"}, "--clusters K"),
        ({"clusters": 10**9}, "1000000000 clusters"),
        ({"consensus": {"methods": ["cspa"]}}, "2,000,000 images"),
    ],
)
def test_what_cannot_be_planned_says_why(changes, words):
    with fails(PlanError, words):
        planned(10**8, **changes)


def test_a_model_nobody_published_is_planned_by_its_shape(tmp_path):
    chosen = {"backbone": "openai/clip-vit-base-patch16", "features": "pooled"}
    with fails(PlanError, "openai/clip-vit-base-patch16", "--rates FILE", "width: 768, depth: 12, patch: 16"):
        planned(10**6, embed=chosen)
    (tmp_path / "rates.yaml").write_text(
        "models:\n  openai/clip-vit-base-patch16: {width: 768, depth: 12, patch: 16}\n"
    )
    plan = planned(10**6, embed=chosen, rates=load_rates(str(tmp_path / "rates.yaml")))
    assert plan.dim == 768


def test_more_images_than_a_float_can_count_are_refused():
    with fails(PlanError, "(400 characters)", "1000000000000000"):
        planned(int("9" * 400))
