"""The table of a number of clusters found without labels: what it says is what the search found."""

from icce_ray.core import cluster_count
from jobs.paper import unknown_k
from jobs.paper.feature_sets import synthetic
from jobs.paper.measure import Measured
from jobs.paper.synthetic import FeatureModel


def test_every_seed_has_its_number_and_the_worst_is_named(tmp_path, monkeypatch):
    # It is the table that is looked at, whatever was found.
    monkeypatch.setattr(cluster_count, "FEWEST_HEADS", 3)
    monkeypatch.setattr(cluster_count, "MOST_HEADS", 3)
    found, search = [], unknown_k.choose_clusters

    def kept(*given, **options):
        found.append(search(*given, **options))
        return found[-1]

    monkeypatch.setattr(unknown_k, "choose_clusters", kept)
    on = synthetic(160, model=FeatureModel(n_clusters=8, dim=16))
    said = []
    text = unknown_k.unknown_k(Measured(on, tmp_path / "kept.jsonl", said.append), (0, 1), (4, 9))
    rows = [line.split("|") for line in text.splitlines() if line.startswith(("| 0 |", "| 1 |"))]
    assert [row[2].strip() for row in rows] == [
        f"{one.clusters} ({one.interval[0]} to {one.interval[1]})" for one in found
    ]
    assert all(
        row[3].strip().startswith(f"{one.clusters} ({one.ratio:.2f}), ") for row, one in zip(rows, found, strict=True)
    )
    assert [row[4].strip() for row in rows] == [", ".join(map(str, one.graph)) for one in found]
    worst = max((one.clusters - 8 for one in found), key=abs)
    assert f"- True K = 8; found in 4 to 9, at worst {worst:+d} ({100 * worst / 8:+.0f} %)." in text
    assert len(said) == 2
