"""What the tab Findings is given: pairs for its slider, groups, the farthest images, the doubtful labels."""

import pyarrow as pa
import pytest

from icce_ray.report import findings as module
from icce_ray.report.findings import findings
from tests.inspected_run import inspected
from tests.small_run import made


@pytest.fixture
def store(tmp_path):
    return inspected(made(tmp_path / "run"))


def test_sections_have_what_a_run_has(store, tmp_path):
    section = findings(store)
    assert section.data["duplicates"]["exact_groups"] == [{"size": 2, "ids": [0, 5]}]
    assert section.data["duplicates"]["pairs"] == [[1, 2, 0.9], [2, 4, 0.5]]
    assert section.data["outliers"]["found"] == [(4, 9.0), (1, 4.0)]
    assert section.data["quality"]["problems"]["dark"]["found"] == [(4, 0.25)]
    assert section.data["labels"] == {"flagged": 1, "found": [[2, "b", "a", 0.75]]}
    assert set(section.wanted.tolist()) == {0, 1, 2, 4, 5}
    assert findings(made(tmp_path / "old")) is None  # a run of before this stage


def test_the_page_stays_small(store, monkeypatch):
    monkeypatch.setattr(module, "SHOWN", 1)
    monkeypatch.setattr(module, "PAIRS", 1)
    data = findings(store).data
    assert data["outliers"]["found"] == [(4, 9.0)]
    assert data["outliers"]["flagged"] == 2
    assert data["duplicates"]["pairs"] == [[1, 2, 0.9]]


def test_no_finding_is_no_error(tmp_path):
    none = pa.array([], pa.int64())
    data = findings(inspected(made(tmp_path / "run"), images=none)).data
    assert data["outliers"]["found"] == []
    assert data["duplicates"]["exact_groups"] == []
