"""Names that `icce name` has guessed: where they are used, how they are marked, when they no longer count."""

import csv

from icce_ray.export.formats import export_predictions
from icce_ray.export.names import chosen_names, read_names
from icce_ray.progress import Progress
from icce_ray.stages.naming import Guess, write_names
from icce_ray.store import RunError
from tests.failures import fails
from tests.forms import write
from tests.labelled_runs import labelled, prediction_of, run_of
from tests.pictures import encode, scene

PNG = encode(scene(), "PNG")
GUESSES = [
    Guess(0, ("=cat, big", "dog", "cow"), (0.31, 0.25, 0.2), 64),
    Guess(1, ("owl", "hawk"), (0.3, 0.299), 3),
    Guess(2, (), (), 0),
]


def named(tmp_path, fingerprint="c"):
    write("files", [(f"{row}.png", PNG) for row in range(3)], tmp_path / "photos")
    store = labelled(run_of(tmp_path / "run", str(tmp_path / "photos")), [0, 1, 2], classes=3)
    store.commit("classifier", [], fingerprint=fingerprint, summary={}, seconds=0)
    write_names(store, GUESSES, "clip")
    return store


def export(store, out, **options):
    export_predictions(store, "csv", str(out), Progress(), **options)
    with out.open(newline="") as file:
        return [row["name"] for row in csv.DictReader(file)]


def test_guesses_are_used_and_marked_unless_names_are_given(tmp_path):
    store = named(tmp_path)
    assert export(store, tmp_path / "guessed.csv") == ["'=cat, big?", "owl?", ""]
    # A user's copy, one name confirmed and one replaced.
    text = store.storage.read_bytes("names.csv").decode().replace("owl,guess", "owl,me")
    (tmp_path / "mine.csv").write_text(text.replace("\n2,,guess", "\n2,newt,"))
    assert read_names(str(tmp_path / "mine.csv"), 3) == {0: "=cat, big?", 1: "owl", 2: "newt"}
    (tmp_path / "names.csv").write_text("label,name\n1,barn owl\n")
    assert export(store, tmp_path / "given.csv", names=str(tmp_path / "names.csv")) == ["", "barn owl", ""]


def test_the_best_three_and_their_margins_are_there(tmp_path):
    rows = list(csv.DictReader(named(tmp_path).storage.read_bytes("names.csv").decode().splitlines()))
    assert [row["margin"] for row in rows] == ["0.0600", "0.0010", ""]
    assert [rows[0][name] for name in ("similarity", "second", "second_similarity", "third", "third_similarity")] == [
        *("0.3100", "dog", "0.2500", "cow", "0.2000")
    ]
    assert rows[2]["name"] == rows[2]["second"] == rows[1]["third"] == ""


def test_guesses_for_other_labels_do_not_count(tmp_path):
    store, said = named(tmp_path), []
    store.commit("classifier", [], fingerprint="of another training", summary={}, seconds=0)
    assert chosen_names(store, None, 3, said.append) is None
    assert "names.csv was made for other labels" in said[0]
    assert (
        chosen_names(
            labelled(run_of(tmp_path / "new", str(tmp_path / "photos")), [0, 1, 1], classes=2), None, 2, said.append
        )
        is None
    )
    assert len(said) == 1


def test_a_prediction_has_the_names_of_its_run(tmp_path):
    run = named(tmp_path)
    out = labelled(prediction_of(tmp_path / "new", run, str(tmp_path / "photos")), [1, 1, 0], classes=3)
    assert chosen_names(out, None, 3, print) == {0: "=cat, big?", 1: "owl?", 2: ""}


def test_guesses_that_cannot_be(tmp_path):
    store = named(tmp_path)
    store.storage.write_bytes("names.csv", b"label,name,labelling\n7,cat,c\n")
    with fails(RunError, "names.csv", "7", "0 to 2"):
        chosen_names(store, None, 3, print)
