"""The commands one after the other on a small folder, as a user types them, with their exit statuses."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

SETTINGS = """
embed: {backbone: hog, features: hog, rows_per_shard: 40}
neighbors: {threshold: 0.6, k_min: 5}
heads: {heads: 3, hidden: 32, bottleneck: 16, epochs: 4, warmup_epochs: 1, batch_size: 40}
classifier: {iterations: 50, batch_size: 40}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folder with 80 images to cluster, 20 more, their classes, settings."""
    folder, digits = tmp_path_factory.mktemp("commands"), load_digits()
    for index in range(100):
        path = folder / ("images" if index < 80 else "more") / f"{index:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((digits.images[index] * 15.9375).astype(np.uint8)).save(path)
    with (folder / "labels.csv").open("w") as file:
        csv.writer(file).writerows([("uri", "label"), *((f"{i:03d}.png", digits.target[i]) for i in range(100))])
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder


@pytest.mark.slow(40)
def test_a_day_with_icce(place, icce):
    run, out = place / "run", place / "out"
    command = ("run", place / "images", "--clusters", 10, "--out", run, "--config", place / "settings.yaml")

    status, _, error = icce(*command, "--set", "heads.epoch=3")
    assert (status, run.exists()) == (2, False)
    assert "did you mean heads.epochs?" in error
    status, _, error = icce("status", run)
    assert (status, "is not a run" in error) == (1, True)

    status, text, error = icce(*command, "--until", "neighbors")
    assert status == 0, error
    assert "INFO" not in text + error
    status, text, _ = icce("status", run)
    assert status == 0
    assert [text.count(state) for state in ("complete", "not begun")] == [4, 5]
    status, _, error = icce("predict", run, place / "more", "--out", out)
    assert (status, "stage classifier of" in error) == (1, True)

    status, text, error = icce(*command)
    assert status == 0, error
    assert "(kept)" in text
    assert str(run) in text
    status, _, error = icce(*command, "--set", "heads.epochs=5")
    assert (status, "heads.epochs: 4 in the run, 5 now" in error) == (1, True)
    status, _, error = icce(*command)
    assert (status, "nothing to do" in error) == (0, True)

    status, text, error = icce("predict", run, place / "more", "--out", out)
    assert status == 0, error
    assert "20 images labelled" in text
    status, text, error = icce("evaluate", run, "--labels", place / "labels.csv", "--predictions", out, "--kmeans")
    assert status == 0, error
    figures = json.loads((run / "metrics.json").read_text())["evaluation"]
    for name in ("kmeans", "mean_head", "best_head", "consensus", "classifier_seen", "classifier_unseen"):
        assert f"{100 * figures[name]['acc']:.2f}" in text
    status, _, error = icce("evaluate", run, "--labels", place / "nowhere.csv")
    assert (status, "no such file" in error) == (1, True)

    status, text, _ = icce("status", run)
    assert (status, text.count("complete")) == (0, 9)
    status, text, _ = icce("verify", run)
    assert (status, "no violations" in text) == (0, True)
    part = run / "consensus/part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    status, text, _ = icce("verify", run)
    assert (status, "consensus/part-000001.parquet" in text) == (4, True)
