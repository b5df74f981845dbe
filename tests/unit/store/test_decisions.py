"""decisions.json: what it may hold, what each error says, and the classes that follow from it."""

import json
import re

import pytest

from icce_ray.store import UsageError
from icce_ray.store.decisions import Decisions, read_decisions
from icce_ray.store.refinement import check_splits, gone_images, planned
from icce_ray.store.versions import labelling
from tests.small_run import made

OF = {"predictions": "a" * 16, "version": 0, "classes": 8}
ALL = {"rename": {"3": "cat"}, "merge": [[4, 1], [2, 7]], "split": {"5": 3}, "reject": [6]}
MOVE = {"image_id": 2, "key": "2.png", "to": 1}


def content(run=OF, **decided):
    return {"format": "icce-decisions", "version": 1, "run": run, **decided}


def saved(tmp_path, values):
    path = tmp_path / "decisions.json"
    path.write_text(json.dumps(values))
    return str(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (content(merge=[[1, 2], [2, 3]]), "class 2 is there 2 times in merge; .* leave one"),
        (content(merge=[[1, 2]], reject=[1]), "class 1 is there 2 times in merge and reject"),
        (content(split={"1": 2}, reject=[1]), "class 1 is there 2 times in split and reject"),
        (content(merge=[[1, 1]]), "class 1 is there 2 times"),
        (content(merge=[[1]]), "merge.0 = .*at least 2"),
        (content(split={"1": 1}), "split.1 = 1: .*greater than or equal to 2"),
        (content(split={"01": 2}), "split.01"),
        (content(rename={"1": "a\nb"}), "class 1 is named 'a.*give visible characters on one line"),
        (content(rename={"1": " "}), "class 1 is named"),
        (content(move=[MOVE, MOVE | {"to": 2}]), "image_id 2 is moved 2 times; leave one"),
        (content(move=[MOVE | {"too": 1}]), "move.0.too = 1"),
        (content(rename={"1": "cat"}, notes="x"), "notes = 'x'"),
        (content(rename={"1": "cat"}) | {"version": 2}, "version = 2"),
        (content(rename={"1": "cat"}, run=OF | {"version": -1}), "run.version = -1"),
        ([], "the whole"),
        (content(), "nothing was decided"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, values, message):
    with pytest.raises(UsageError, match=rf"--decisions .*decisions\.json(?s:.*){message}"):
        read_decisions(saved(tmp_path, values))


def test_a_file_that_is_not_there_or_no_json(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_decisions(str(tmp_path / "none.json"))
    (tmp_path / "decisions.json").write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        read_decisions(str(tmp_path / "decisions.json"))


def test_the_order_of_the_file_does_not_matter(tmp_path):
    one = read_decisions(saved(tmp_path, content(**ALL)))
    other = read_decisions(saved(tmp_path, content(**ALL | {"merge": [[7, 2], [1, 4]]})))
    assert one.digest() == other.digest()


def test_what_is_gone_is_named_and_can_be_left_out():
    decided = Decisions.model_validate(
        content(
            rename={"3": "cat", "8": "dog"},
            merge=[[1, 9], [2, 4, 10]],
            split={"11": 2},
            reject=[12],
            move=[MOVE, MOVE | {"image_id": 3}, MOVE | {"image_id": 4, "to": 8}],
        )
    )
    lines = decided.gone({3})
    assert [re.search(r"(class|image) \d+", line)[0] for line in lines] == [
        *("class 8", "class 11", "class 9", "class 10", "class 12"),
        *("image 3", "image 4"),
    ]
    left = decided.without_gone({3})
    assert left.gone({3}) == []
    assert (left.rename, left.merge, left.split, left.reject) == ({"3": "cat"}, [[2, 4]], {}, [])
    assert [one.image_id for one in left.move] == [2]


def test_images_are_known_by_id_and_key(tmp_path):
    run = made(tmp_path)  # image 3 was rejected, and 6 was never listed
    moves = [MOVE | {"image_id": number, "key": f"{number}.png"} for number in (2, 3, 5, 6)]
    decided = Decisions.model_validate(content(move=[*moves, MOVE | {"image_id": 4, "key": "other.png"}]))
    assert gone_images(run, decided.move) == {3, 4, 6}


def test_new_classes_keep_the_order_of_the_old_ones(tmp_path):
    run = made(tmp_path)
    decided = Decisions.model_validate(content(**ALL, move=[MOVE]))
    names = {1: ("kite", True), 2: ("dog", False), 5: ("boat", False)}
    found = planned(run, run, decided, names, [])
    assert found.parts == [[0], [1], [2], [3], [1], [4, 5, 6], [7], [2]]
    assert found.classes == 8
    named = {1: "kite", 2: "dog", 3: "cat", 4: "boat (1)", 5: "boat (2)", 6: "boat (3)", 7: "rejected"}
    assert (found.names, found.guessed, found.rejected) == (named, [1], [7])
    assert found.fixed == {2: 1}


def test_a_class_that_is_too_small_to_split_and_a_last_class(tmp_path):
    run = made(tmp_path)
    decided = labelling(run)
    with pytest.raises(UsageError, match=r"class 0 has 3 images .* 2 parts need at least 20"):
        check_splits(run, Decisions.model_validate(content(decided, split={"0": 2})))
    with pytest.raises(UsageError, match="leave one class"):
        check_splits(run, Decisions.model_validate(content(decided, merge=[[0, 1]])))
