"""Settings: the method's defaults, faults in words, files and overrides, what defines a run."""

import dataclasses
import os

import pytest
from pydantic import BaseModel, ValidationError

from icce_ray.core.recipe import LEARNING_RATES, Recipe
from icce_ray.settings import HeadsSettings, ResourceSettings, Settings, SettingsError, TrackingSettings, load
from tests.failures import fails

BASE = {"source": "photos", "clusters": 10, "out": "run"}


def changed(*overrides, **values):
    base = [f"{name}={value}" for name, value in BASE.items()]
    return load(values, overrides=[*base, *overrides])


def fault(*overrides, **values):
    """The message that settings are refused with."""
    with pytest.raises(SettingsError) as caught:
        changed(*overrides, **values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("stage", "defaults"),
    [
        # Paper 3.1, 4.2: DINOv2 ViT-L/14, CLS and patch mean, one block; the image size is the backbone's own.
        ("embed", {"backbone": "facebook/dinov2-large", "n_last_blocks": 1, "image_size": None, "resize": None}),
        ("embed", {"features": None, "precision": "auto", "reject_budget": 0.05}),
        # Paper 3.1, neighbours
        ("neighbors", {"mode": "adaptive", "threshold": 0.3, "k_min": 50, "k_max": None, "labels": None}),
        ("neighbors", {"components": 0}),
        # Paper 3.1 and 4.2, TEMI: heads
        ("heads", {"heads": 50, "hidden": 512, "bottleneck": 256, "epochs": 400, "batch_size": 1024}),
        ("heads", {"learning_rate": 1e-4, "warmup_epochs": 20, "weight_decay": 1e-4}),
        ("heads", {"student_temperature": 0.1, "teacher_temperature": 0.1, "teacher_momentum": 0.996}),
        ("heads", {"marginal_momentum": 0.9, "beta": 0.6, "ce_weight": 1.0}),
        ("heads", {"teacher": "sinkhorn", "sinkhorn_iterations": 3, "input_norm": "batchnorm"}),
        ("heads", {"cluster_prior": "uniform", "prior_strength": 1.0}),
        ("heads", {"smoothing_neighbors": 1}),
        # Paper 3.2 and 3.3
        ("consensus", {"methods": ("cspa", "hgpa", "mcla", "hbgf")}),
        ("classifier", {"iterations": 12_500, "learning_rates": LEARNING_RATES, "holdout": 0.1}),
    ],
)
def test_the_papers_preset(stage, defaults):
    settings = getattr(load(BASE, config="paper"), stage)
    assert {name: getattr(settings, name) for name in defaults} == defaults


def test_the_grid_has_dinov2s_thirteen_rates():
    assert len(LEARNING_RATES) == 13
    assert (min(LEARNING_RATES), max(LEARNING_RATES)) == (1e-5, 1e-1)


def test_head_settings_are_the_cores_recipe():
    recipe = load(BASE, config="paper").heads.recipe()
    assert recipe == dataclasses.asdict(Recipe())
    assert Recipe(**HeadsSettings(**recipe | {"heads": 3, "epochs": 30}).recipe()) == Recipe(heads=3, epochs=30)


def test_every_field_says_what_it_is():
    groups = [field.annotation for field in Settings.model_fields.values() if _is_group(field.annotation)]
    assert len(groups) == 9
    bare = [
        f"{model.__name__}.{name}"
        for model in (Settings, *groups)
        for name, field in model.model_fields.items()
        if not field.description and not _is_group(field.annotation)
    ]
    assert bare == []


def _is_group(annotation):
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("clusters=1", ["clusters = 1", "at least 2", "Number of classes"]),
        ("clusters=many", ["clusters = 'many'", "whole number"]),
        ("neighbors.cluster_range=[9,9]", ["neighbors:", "cluster_range = 9, 9", "then a higher one"]),
        ("neighbors.cluster_range=[3,9]", ["neighbors.cluster_range.0 = 3", "at least 4"]),
        ("seed=-1", ["seed = -1", "at least 0"]),
        ("out=''", ["out = ''", "give some text"]),
        ("neighbors.threshold=1.5", ["neighbors.threshold = 1.5", "at most 1.0", "Cosine similarity"]),
        ("neighbors.threshold=.nan", ["neighbors.threshold = nan", "finite"]),
        ("neighbors={k_min: 50, k_max: 49}", ["neighbors:", "k_max = 49", "k_min = 50", "raise k_max or lower k_min"]),
        ("neighbors.mode=ground_truth", ["neighbors:", "labels = None", "needs labels"]),
        ("neighbors.labels=truth.csv", ["neighbors:", "mode = adaptive", "only it, needs labels"]),
        (
            "heads={epochs: 5, warmup_epochs: 20}",
            ["heads:", "warmup_epochs = 20", "epochs = 5", "lower it or train longer"],
        ),
        ("heads.epochs=1.5", ["heads.epochs = 1.5", "whole number"]),
        ("heads.learning_rate=0", ["heads.learning_rate = 0", "more than 0.0"]),
        ("heads.learning_rate=.inf", ["heads.learning_rate = inf", "finite"]),
        ("heads.teacher_momentum=1", ["heads.teacher_momentum = 1", "less than 1.0"]),
        ("heads.teacher=none", ["heads.teacher = 'none'", "'sinkhorn' or 'softmax'"]),
        ("heads=3", ["heads = 3", "group of settings", "heads.epochs"]),
        ("embed.features=dino", ["embed.features = 'dino'", "'cls', 'cls+patch_mean'"]),
        ("embed.backbone=7", ["embed.backbone = 7", "give text"]),
        ("embed.backbone=[hog, hog]", ["embed.backbone", "each once"]),
        ("embed.backbone=[]", ["embed.backbone", "at least one"]),
        ("embed={backbone: [hog, x], n_last_blocks: 4}", ["n_last_blocks = 4", "not of 2", "one backbone"]),
        ("consensus.methods=[]", ["consensus.methods = []", "at least 1"]),
        ("consensus.methods=mcla", ["consensus.methods = 'mcla'", "give a list"]),
        ("consensus.methods=[mcla, foo]", ["consensus.methods.1 = 'foo'", "'mcla' or 'hbgf'"]),
        ("classifier.learning_rates=[]", ["classifier.learning_rates = []", "at least 1"]),
        ("seed=18446744073709551615", ["seed = 18446744073709551615", "at most 9223372036854775807"]),
        ("neighbors.k_min=10000000000000000000", ["neighbors.k_min = 10000000000000000000", "at most 2147483647"]),
        ("heads.hidden=100000000000", ["heads.hidden = 100000000000", "at most 65536"]),
        ("classifier.iterations=10000000000000000000", ["classifier.iterations = 1000", "at most 1000000000"]),
        ("resources.embed_actors=100000", ["resources.embed_actors = 100000", "at most 1024"]),
        ("resources.wait_minutes=1e300", ["resources.wait_minutes = ", "at most 1000000"]),
        ("clusters=10000000000000000000", ["clusters = 1000", "at most 2147483647"]),
        ("seed=" + "9" * 5_000, ["--set seed=999", "50 digits", "quote"]),
        ("seed=2024-13-45", ["seed = '2024-13-45'", "whole number"]),
        ("tracking.experiment=" + "x" * 300_000, ["--set tracking.experiment=xxx", "262,144 bytes"]),
        ("x" * 5_000 + "=1", ["xxx", "unknown setting"]),
    ],
)
def test_a_fault_names_field_value_limit_and_remedy(override, parts):
    message = fault(override)
    assert "\n" not in message
    assert len(message) < 1000
    assert [part for part in parts if part not in message] == []


def test_workers_that_share_heads_are_no_more_than_these():
    overrides = ("heads.heads=3", "resources.head_workers=4")
    assert fault(*overrides) == (
        "resources.head_workers = 4 is more than heads.heads = 3, which they are to share; lower it to at most 3, or "
        "set resources.parallelism=data"
    )
    assert changed(*overrides, "resources.parallelism=data").resources.head_workers == 4


def test_a_missing_setting_says_what_it_is():
    with fails(SettingsError, "clusters: missing", "Number of classes K"):
        load({"source": "photos", "out": "run", "clusters": None})


def test_one_line_a_fault():
    lines = fault("neighbors.threshold=2", "heads.beta=0", clusters=1).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["clusters", "neighbors.threshold", "heads.beta"]


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("neighbors.treshold=0.5", "did you mean neighbors.threshold?"),
        ("threshold=0.5", "did you mean neighbors.threshold?"),
        ("clusterz=5", "did you mean clusters?"),
        ("head.epochs=5", "head.epochs = 5: unknown setting; did you mean heads.epochs?"),
        ("embed.model=hog", "settings are embed.backbone, embed.features"),  # not neighbors.mode
        ("head.lr=1", "settings are heads.heads, heads.hidden"),
        ("xyzzy=5", "settings are source, clusters, out"),
    ],
)
def test_an_unknown_setting_suggests_the_nearest(override, nearest):
    message = fault(override)
    assert "unknown setting" in message
    assert nearest in message


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("list.format=webdatset", "did you mean webdataset?"),
        ("heads.teacher=snikhorn", "did you mean sinkhorn?"),
        ("clusters=auot", "did you mean auto?"),
        ("neighbors.threshold=atuo", "did you mean auto?"),
    ],
)
def test_a_mistyped_word_suggests_the_nearest(override, meant):
    assert meant in fault(override)


@pytest.mark.parametrize("override", ["heads.teacher=none", "clusters=many", "clusters=1.5", "heads.epochs=auto"])
def test_where_nothing_is_near_nothing_is_suggested(override):
    assert "did you mean" not in fault(override)


def test_every_name_of_an_unknown_group_has_its_line(tmp_path):
    (tmp_path / "run.yaml").write_text("head: {epoch: 3, bta: 0.5}\nneighbours:\n  k_min: 5\n")
    with pytest.raises(SettingsError) as caught:
        load(BASE, config=str(tmp_path / "run.yaml"))
    assert str(caught.value).splitlines() == [
        "head.epoch = 3: unknown setting; did you mean heads.epochs?",
        "head.bta = 0.5: unknown setting; did you mean heads.beta?",
        "neighbours.k_min = 5: unknown setting; did you mean neighbors.k_min?",
    ]


@pytest.mark.parametrize("field", ["source", "out"])
def test_credentials_are_refused_and_not_repeated(field):
    message = fault(**{field: "s3://AKIA:hunter2@bucket/photos"})
    assert message.startswith(f"{field}: the URI holds credentials")
    assert "hunter2" not in message
    assert changed(**{field: "s3://bucket/a@b?scheme=http"})  # no secret: the sign is in the path
    assert changed(**{field: "photos@home/a"})


def test_credentials_of_a_labels_file_are_refused():
    assert "hunter2" not in fault("neighbors.mode=ground_truth", "neighbors.labels=s3://AKIA:hunter2@bucket/truth.csv")


@pytest.mark.parametrize("text", ["heads.epochs", "=5", ""])
def test_an_override_without_name_or_value_shows_the_form(text):
    assert "give stage.field=value" in fault(text)


def test_overrides_are_yaml():
    settings = changed("heads.learning_rate=1e-3", "consensus.methods=[mcla]", "neighbors.k_max=null", "seed= 7")
    assert settings.heads.learning_rate == 1e-3
    assert settings.consensus.methods == ("mcla",)
    assert (settings.neighbors.k_max, settings.seed) == (None, 7)
    assert changed("heads.epochs=30", "heads.epochs=40").heads.epochs == 40
    assert "quote" in fault("heads.epochs=[")
    assert "source is no group" in fault("source=a", "source.b=1")


@pytest.mark.parametrize(
    ("text", "to"),
    [
        ("none", ()),
        ("mlflow", ("mlflow",)),
        ("[tensorboard, wandb]", ("tensorboard", "wandb")),
        ("[]", ()),
    ],
)
def test_trackers_are_one_name_or_several_or_none(text, to):
    assert changed(f"tracking.to={text}").tracking.to == to
    assert changed().tracking.to == ("tensorboard",)


def test_file_then_overrides_then_values(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("clusters: 3\nseed: 1\nheads:\n  heads: 4\n  epochs: 40\n  batch_size: 16\n")
    values = BASE | {"seed": None, "heads": {"batch_size": 64}}
    settings = load(values, config=str(config), overrides=["heads.epochs=50", "heads.batch_size=32"])
    assert (settings.clusters, settings.seed) == (10, 1)  # None is no value
    assert (settings.heads.heads, settings.heads.epochs, settings.heads.batch_size) == (4, 50, 64)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"\xff\xfe\x00", []),
        (b"a: &a [*a]\n", ["anchors"]),
        (b"- 1\n- 2\n", ["list"]),
        (b"", ["NoneType"]),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, parts):
    config = tmp_path / "run.yaml"
    config.write_bytes(content)
    with fails(SettingsError, f"--config {config}", *parts, "`clusters: 20`") as caught:
        load(BASE, config=str(config))
    assert "\n" not in str(caught.value)


def test_names_in_a_file_are_text(tmp_path):
    (tmp_path / "run.yaml").write_text("1: 2\nheads: {3: 4}\n")
    with fails(SettingsError, "1 = 2: unknown setting", "heads.3 = 4: unknown setting"):
        load(BASE, config=str(tmp_path / "run.yaml"))


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    kinds = {tmp_path / "no.yaml": "no such file", tmp_path: "a folder", tmp_path / "pipe": "a pipe"}
    for path, kind in (kinds | {"/dev/zero": "a device"}).items():
        with fails(SettingsError, f"--config {path}", kind, "YAML"):
            load(BASE, config=str(path))


def test_what_defines_a_run():
    settings = changed()
    defining = settings.defining()
    assert set(defining) == set(Settings.model_fields) - {"out", "resources", "tracking"}
    assert "reject_budget" not in defining["embed"]
    changes = {"resources": ResourceSettings(device="cpu"), "tracking": TrackingSettings(to=())}
    same = settings.model_copy(update={"out": "elsewhere", **changes})
    assert same.defining() == defining
    assert changed("embed.reject_budget=0.5").defining() == defining
    assert changed("heads.beta=0.7").defining() != defining


@pytest.mark.parametrize(
    ("given", "names"), [("hog", ("hog",)), ("[hog]", ("hog",)), ("[hog, facebook/x]", ("hog", "facebook/x"))]
)
def test_one_backbone_or_several(given, names):
    embed = changed(f"embed.backbone={given}").embed
    assert embed.backbones == names
    assert embed.model_dump(mode="json")["backbone"] == (names[0] if len(names) == 1 else list(names))


def test_settings_are_frozen_and_survive_their_file():
    settings = changed("consensus.methods=[mcla, hbgf]", "embed.backbone=[hog, x]")
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    with pytest.raises(ValidationError, match="frozen"):
        settings.heads.epochs = 3
