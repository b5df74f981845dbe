"""A run of six images, of which the fourth is rejected, with every artifact as the stages would write it."""

import json

import numpy as np
import pyarrow as pa
import torch

from icce_ray.settings import load
from icce_ray.stages.features import list_column
from icce_ray.store import Store, fingerprint
from icce_ray.store import artifacts as a
from icce_ray.store.artifacts import STAGES
from icce_ray.store.decisions import Decisions
from icce_ray.store.refinement import planned
from icce_ray.store.verify import violations
from icce_ray.store.versions import bind_version, labelling, refinement_of, version_of

INPUTS, CLUSTERS, HEADS, HIDDEN, BOTTLENECK, EPOCHS, DIM = 6, 2, 2, 5, 4, 3, 3
OVERRIDES = ["neighbors.k_min=2", "neighbors.k_max=3", "neighbors.threshold=0.5", f"heads.heads={HEADS}"]
OVERRIDES += [f"heads.hidden={HIDDEN}", f"heads.bottleneck={BOTTLENECK}", f"heads.epochs={EPOCHS}"]
OVERRIDES += ["heads.warmup_epochs=1"]
M0, M1 = (a.MANIFEST.part(number) for number in range(2))
F0, F1 = (a.FEATURES.part(number) for number in range(2))
S0, S1 = (a.SAMPLE.part(number) for number in range(2))
N0, N1 = (a.NEIGHBORS.part(number) for number in range(2))
H0, H1 = (a.HEAD_LABELS.part(number) for number in range(2))
C0, C1 = (a.CONSENSUS.part(number) for number in range(2))
P0, P1 = (a.PREDICTIONS.part(number) for number in range(2))
R0, NEW_R0, LOSSES = a.REJECTS.part(0), a.PREDICTION_REJECTS.part(0), a.HEAD_LOSSES.path
#: Directions of the images in degrees: the similarity of two is the cosine of their difference.
DEGREES = np.array([0, 20, 40, 55, 70, 100])


def named(ids):
    return {
        "image_id": pa.array(ids, pa.int64()),
        "uri": pa.array([f"file:///photos/{index}.png" for index in ids], pa.string()),
        "key": pa.array([f"{index}.png" for index in ids], pa.string()),
    }


def manifest(ids):
    none = [None] * len(ids)
    place = {"container": pa.array(none, pa.string()), "position": pa.array(none, pa.int64())}
    return pa.table(named(ids) | {"size": pa.array([100] * len(ids), pa.int64())} | place)


def vectors(ids):
    angles = np.radians(DEGREES[np.array(ids, int) % INPUTS])
    return np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1).astype(np.float16)


def features(ids, values=None):
    return pa.table(named(ids) | {"features": list_column(vectors(ids) if values is None else values)})


def rejects(ids, reason="truncated"):
    reasons = pa.array([reason] * len(ids), pa.string())
    return pa.table(named(ids) | {"reason": reasons, "detail": reasons})


def cosines(image, others):
    return np.cos(np.radians(DEGREES[others] - DEGREES[image])).tolist()


def neighbors(ids, neighbor_ids, similarities=None):
    similarities = similarities or [cosines(*pair) for pair in zip(ids, neighbor_ids, strict=True)]
    lists = {
        "neighbor_ids": pa.array(neighbor_ids, pa.large_list(pa.int64())),
        "similarities": pa.array(similarities, pa.large_list(pa.float32())),
    }
    return pa.table(named(ids) | lists).drop_columns("uri")


def head_labels(ids, values):
    return pa.table(named(ids) | {"labels": list_column(np.array(values, np.int32))}).drop_columns("uri")


def labels(ids, values, share=0.5, name="confidence"):
    shares = [0.5] * (len(ids) - 1) + [share] if ids else []
    return pa.table(named(ids) | {"label": pa.array(values, pa.int32()), name: pa.array(shares, pa.float32())})


def agreed(ids, values, share=0.5):
    return labels(ids, values, share, "agreement")


TEMI = pa.table(
    {
        "epoch": np.repeat(np.arange(EPOCHS), HEADS),
        "head": np.tile(np.arange(HEADS), EPOCHS),
        "temi": np.linspace(1, 0, EPOCHS * HEADS, dtype=np.float32),
        "cross_entropy": np.linspace(1, 0, EPOCHS * HEADS, dtype=np.float32),
    }
)
SCORES = {"method": "hbgf", "scores": {"hbgf": 0.5}, "cluster_sizes": [3, 2]}
DESCRIBED = {"columns": [[0, DIM]], "classes": CLUSTERS}
WEIGHTS = {
    a.HEAD_WEIGHTS.path: {
        "hidden.weight": torch.zeros(HEADS, HIDDEN, DIM),
        "hidden.bias": torch.zeros(HEADS, HIDDEN),
        "bottleneck.weight": torch.zeros(HEADS, BOTTLENECK, HIDDEN),
        "bottleneck.bias": torch.zeros(HEADS, BOTTLENECK),
        "prototypes": torch.zeros(HEADS, CLUSTERS, BOTTLENECK),
        "input.mean": torch.zeros(DIM),
        "input.std": torch.ones(DIM),
    },
    a.CLASSIFIER_WEIGHTS.path: {"weight": torch.zeros(CLUSTERS, DIM), "bias": torch.zeros(CLUSTERS)},
}
#: Every file of each stage; two shards of features.
FILES = {
    "list": {M0: manifest(range(4)), M1: manifest([4, 5])},
    "embed": {F0: features([0, 1, 2]), F1: features([4, 5]), R0: rejects([3])},
    "sample": {},
    "neighbors": {
        N0: neighbors([0, 1, 2], [[1, 2], [0, 2, 4], [1, 4, 0]]),
        N1: neighbors([4, 5], [[5, 2, 1], [4, 2]]),
    },
    "heads": {
        H0: head_labels([0, 1, 2], [[0, 1], [0, 0], [1, 1]]),
        H1: head_labels([4, 5], [[0, 1], [1, 0]]),
        LOSSES: TEMI,
        a.HEAD_WEIGHTS.path: WEIGHTS[a.HEAD_WEIGHTS.path],
    },
    "consensus": {
        C0: agreed([0, 1, 2], [0, 0, 1]),
        C1: agreed([4, 5], [1, 0]),
        a.CONSENSUS_SCORES.path: SCORES,
    },
    "classifier": {
        a.CLASSIFIER_GRID.path: pa.table({"input": ["all"], "learning_rate": [0.1], "accuracy": [1.0], "loss": [0.0]}),
        a.CLASSIFIER_WEIGHTS.path: WEIGHTS[a.CLASSIFIER_WEIGHTS.path],
        a.CLASSIFIER_DESCRIPTION.path: DESCRIBED,
    },
    "predict": {P0: labels([0, 1, 2], [0, 0, 1]), P1: labels([4, 5], [1, 1])},
    "inspect": {a.FINDINGS.path: {}},
}
COUNTS = {"images": INPUTS, "ok": 5, "rejected": 1, "rejected_by_reason": {"truncated": 1}}
SUMMARIES = {
    "list": {"images": INPUTS},
    "embed": COUNTS | {"dim": DIM, "block_dim": 0},
    "sample": {"images": 5, "of": 5, "seed": 0},
    "neighbors": {"threshold": 0.5, "k_min": 2, "k_max": 3},
    "consensus": SCORES,
    "predict": {"class_sizes": [2, 3]},
}
#: Of the accepted images 0, 1, 2, 4, 5 these are the ones that seed 27 draws.
DRAWN = [1, 2, 4]
SAMPLED_OVERRIDES = [*OVERRIDES, "heads.max_images=3", "heads.sample_seed=27"]
SAMPLED_SCORES = SCORES | {"cluster_sizes": [2, 1]}
SAMPLED_FILES = FILES | {
    "sample": {S0: features([1, 2]), S1: features([4])},
    "neighbors": {N0: neighbors(DRAWN, [[2, 4], [1, 4], [2, 1]])},
    "heads": FILES["heads"] | {H0: head_labels(DRAWN, [[0, 1], [0, 0], [1, 1]])},
    "consensus": {C0: agreed(DRAWN, [0, 0, 1]), a.CONSENSUS_SCORES.path: SAMPLED_SCORES},
}
del SAMPLED_FILES["heads"][H1]
SAMPLED_SUMMARIES = SUMMARIES | {"sample": {"images": 3, "of": 5, "seed": 27}, "consensus": SAMPLED_SCORES}


def written(store, path, content):
    """Write a table, tensors or a JSON document, and describe it as a marker does."""
    if isinstance(content, pa.Table):
        return store.storage.write_table(path, content)
    if path.endswith(".safetensors"):
        return store.storage.write_tensors(path, content)
    store.storage.write_bytes(path, json.dumps(content).encode())
    return store.storage.describe(path)


def made(root, files=FILES, summaries=SUMMARIES, overrides=OVERRIDES):
    """A run of all stages, from its files and figures."""
    store = Store(str(root))
    settings = load({"source": "photos", "clusters": CLUSTERS, "out": store.root}, overrides=overrides)
    store.claim(settings)
    for stage in STAGES:
        infos = [written(store, *one) for one in files[stage].items()]
        summary = summaries.get(stage, {})
        store.commit(stage, infos, fingerprint=fingerprint(settings, stage), summary=summary, seconds=0)
        if stage != "list":
            store.record(stage, summary | {"seconds": 0.5})
    return store


def made_of_sample(root):
    """The same where heads learn from three images that were drawn."""
    return made(root, SAMPLED_FILES, SAMPLED_SUMMARIES, SAMPLED_OVERRIDES)


def predicted(root):
    """What `icce predict` writes for a source of the six images."""
    store = Store(str(root))
    store.claim_prediction({"run": "run", "classifier": "c" * 16, "source": "photos"})
    summaries = {"list": SUMMARIES["list"], "predict": COUNTS | SUMMARIES["predict"]}
    for stage, files in {"list": FILES["list"], "predict": FILES["predict"] | {NEW_R0: rejects([3])}}.items():
        infos = [written(store, *one) for one in files.items()]
        store.commit(stage, infos, fingerprint="c" * 16, summary=summaries[stage], seconds=0)
    return store


def decided(run, **what):
    """Decisions about the classes of a run or of a version."""
    return Decisions.model_validate({"format": "icce-decisions", "version": 1, "run": labelling(run), **what})


def refined(run, number=1, **what):
    """A version of a run, by default with class 1 rejected, with every artifact as the stages would write it."""
    version = version_of(run, number)
    bind_version(version, run, planned(run, run, decided(run, **what or {"reject": [1]}), {}, []), {})
    for stage in a.REFINED:
        infos = [written(version, *one) for one in FILES[stage].items()]
        summary, digest = SUMMARIES.get(stage, {}), refinement_of(version).digest()
        version.commit(stage, infos, fingerprint=digest, summary=summary, seconds=0)
        version.record(stage, summary | {"seconds": 0.5})
    return version


def replaced(store, stage, path, content, **summary):
    """Write another content as if the stage had: the marker has it, and other figures if there are any."""
    info, marker = written(store, path, content), store.require(stage)
    files, figures = [info, *(one for one in marker.files if one.path != path)], marker.summary | summary
    store.commit(stage, files, fingerprint=marker.fingerprint, summary=figures, seconds=0)
    if summary:
        store.record(stage, figures)


def finds(store, *expected):
    """`verify` has a line for each of `expected` and no other: what it starts with, and facts that it holds."""
    lines = list(violations(store))
    assert len(lines) == len(expected), lines
    for line, (start, *facts) in zip(lines, expected, strict=True):
        assert line.startswith(f"{start}: "), (line, start)
        assert [fact for fact in facts if str(fact) not in line] == [], line
        assert "\n" not in line
