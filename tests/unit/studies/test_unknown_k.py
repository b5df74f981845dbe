"""The table of a number of clusters found without labels: what it says is what the search found."""

from icce_ray.core import cluster_count
from icce_ray.core.cluster_count import choose_clusters, in_reach
from icce_ray.core.synthetic import FeatureModel
from icce_ray.studies.feature_sets import synthetic
from icce_ray.studies.measure import Measured
from icce_ray.studies.unknown_k import unknown_k


def test_every_seed_has_its_number_and_the_worst_is_named(tmp_path, monkeypatch):
    # It is the table that is looked at, whatever was found.
    monkeypatch.setattr(cluster_count, "FEWEST_HEADS", 8)
    monkeypatch.setattr(cluster_count, "MOST_HEADS", 8)
    on = synthetic(600, model=FeatureModel(n_clusters=8, dim=32))
    limits = {"k_min": on.base.k_min, "recipe": on.base.recipe, "precision": on.base.precision}
    low, high = in_reach(len(on.features), on.base.k_min, 4, 24)
    found = [choose_clusters(on.features, low=low, high=high, seed=seed, **limits) for seed in (0, 1)]
    said = []
    text = unknown_k(Measured(on, tmp_path / "kept.jsonl", said.append), (0, 1), (4, 24))
    rows = [line.split("|") for line in text.splitlines() if line.startswith(("| 0 |", "| 1 |"))]
    assert [int(row[2]) for row in rows] == [one.clusters for one in found]
    assert all(
        row[3].strip().startswith(f"{one.clusters} ({one.ratio:.2f}), ") for row, one in zip(rows, found, strict=True)
    )
    worst = max((one.clusters - 8 for one in found), key=abs)
    assert f"- True K = 8; found in 4 to 24, at worst {worst:+d} ({100 * worst / 8:+.0f} %)." in text
    assert len(said) == 2
