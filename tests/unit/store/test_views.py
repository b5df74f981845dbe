"""Names of feature spaces, and which columns of the features belong to each."""

import pytest

from icce_ray.store.artifacts import HEAD_WEIGHTS, NEIGHBORS, checkpoint_of, declared
from icce_ray.store.views import View, space_names, spaces_of, views_of, widths_of

TWO = {"dim": 8, "spaces": {"hog": [0, 3], "vit": [3, 8]}}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["hog", "facebook/dinov2-base"], ["hog", "dinov2-base"]),
        (["/a/weights/", "/b/weights", "weights"], ["weights", "weights-2", "weights-3"]),
        (["timm:vit_small.dino", "joined", "../.."], ["timm-vit_small-dino", "joined-2", "space"]),
    ],
)
def test_names_are_folders_of_their_own(given, names):
    assert space_names(given) == names


def test_what_is_seen_of_the_features_in_each_space():
    assert spaces_of({"dim": 8}) == ("",)
    assert views_of({"dim": 8}, "", {"": {"components": 0}}) == ()
    assert views_of({"dim": 8}, "", {"": {"components": 2}}) == (View("", 0, 8, 2),)
    assert spaces_of(TWO) == ("hog", "vit", "joined")
    assert views_of(TWO, "vit", {}) == (View("vit", 3, 8),)
    figures = {"hog": {"components": 2, "weight": 0.3}}
    assert views_of(TWO, "joined", figures) == (View("hog", 0, 3, 2, 0.3), View("vit", 3, 8))
    assert [widths_of(TWO, space, figures) for space in spaces_of(TWO)] == [[2], [5], [2, 5]]


def test_artifacts_of_a_space_lie_in_its_folder_and_those_of_an_only_one_where_they_did():
    assert NEIGHBORS.of("") is NEIGHBORS
    assert NEIGHBORS.of("hog").part(3) == "neighbors/hog/part-000003.parquet"
    assert HEAD_WEIGHTS.of("hog").path == "heads/hog/heads.safetensors"
    assert checkpoint_of("heads", "hog") == "heads/hog/checkpoint.safetensors"
    paths = [one.path for one in declared(["hog", "joined"])]
    assert {"neighbors/hog", "neighbors/joined", "heads/joined/heads.safetensors", "head_labels"} <= set(paths)
    assert not {"neighbors", "heads/heads.safetensors", "head_labels/hog"} & set(paths)
