"""The study of what is kept: every candidate is judged, and each criterion names one of them."""

from jobs.paper.feature_sets import synthetic
from jobs.paper.kept import CRITERIA, NAMES, kept
from jobs.paper.measure import Measured
from jobs.paper.synthetic import FeatureModel


def test_every_criterion_picks_one_of_the_candidates(tmp_path):
    on = synthetic(300, model=FeatureModel(n_clusters=4))
    said = []
    text = kept(Measured(on, tmp_path / "kept.jsonl", said.append), (0,))
    header, _, row = (line.split("|")[1:-1] for line in text.splitlines()[2:5])
    assert [name.strip() for name in header] == ["seed", *NAMES, *(f"by {one}" for one in CRITERIA)]
    accuracies = dict(zip(NAMES, (cell.strip() for cell in row[1 : 1 + len(NAMES)]), strict=True))
    assert all(50 < float(value) <= 100 for value in accuracies.values())
    for cell in row[1 + len(NAMES) :]:
        accuracy, name = cell.strip(" )").split(" (")
        assert accuracies[name] == accuracy
    again = kept(Measured(on, tmp_path / "kept.jsonl", said.append), (0,))
    assert again == text
    assert len(said) == 2  # the second time nothing is trained
