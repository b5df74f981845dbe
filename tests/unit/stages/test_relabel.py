"""Labels of a version from those of its base: what each decision does to an image's label and agreement."""

import numpy as np

from icce_ray.core.splitting import Parts
from icce_ray.stages.relabel import given, relabelled
from icce_ray.store.versions import Refinement


def refinement(parts, moved=()):
    numbers = {number for of_class in parts for number in of_class}
    return Refinement(0, "l", "d", {}, len(numbers), parts, {}, [], [], list(moved), [])


def test_labels_that_were_given_go_before_others():
    ids = np.array([2, 5, 9], np.int64)
    assert given(ids, np.array([0, 0, 0], np.int32), {5: 3, 7: 1}).tolist() == [0, 3, 0]
    assert given(ids, np.array([4, 4, 4], np.int32), {}).tolist() == [4, 4, 4]


def test_merged_split_and_moved_images():
    """Classes 0 and 2 are one, class 1 two, of which the third image was moved from; class 3 stays."""
    decided = refinement([[0], [1, 2], [0], [3]], moved=[(4, 3), (6, 1)])
    ids, label = np.array([0, 1, 2, 3, 4, 5, 6], np.int64), np.array([0, 2, 1, 1, 1, 3, 0], np.int32)
    agreement = np.array([0.5, 0.25, 0.5, 0.5, 0.5, 0.75, 1.0], np.float32)
    heads = np.array([[0, 2], [2, 2], [1, 1], [1, 1], [1, 1], [3, 3], [0, 0]])
    parts = {1: (np.array([2, 3, 6]), Parts(np.array([0, 1, 1], np.int32), np.array([1.0, 0.5, 0.5], np.float32)))}
    mapping = [np.arange(4, dtype=np.int32)] * 2  # each cluster of both heads stands for the class of its number
    new, share = relabelled(ids, label, agreement, decided, parts, mapping, heads)
    assert new.tolist() == [0, 0, 1, 2, 3, 3, 2]
    assert share.tolist() == [1.0, 1.0, 0.5, 0.25, 1.0, 0.75, 0.5]
