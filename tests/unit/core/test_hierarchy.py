"""The tree of classes: what heads mix is joined first, whatever the sizes, and the cut holds every class once."""

import numpy as np
import pytest

from icce_ray.core.hierarchy import co_association, cut, similarity, tree
from icce_ray.core.metrics import head_contingency


def heads_of(label, mixed, heads=40, share=0.3, seed=0):
    """Labels of heads that give `share` of the images of a class the label of one that they mix it with."""
    random = np.random.default_rng(seed)
    labels = np.repeat(label[:, None], heads, axis=1)
    for one, other in mixed:
        labels[(label == one)[:, None] & (random.random(labels.shape) < share)] = other
    return labels


def tree_of(label, labels, clusters):
    tables = head_contingency(labels, label, np.full(labels.shape[1], clusters), clusters)
    return tree(co_association(tables), np.bincount(label, minlength=clusters))


def test_co_association_is_the_chance_of_two_images():
    random = np.random.default_rng(0)
    label, labels = random.integers(0, 3, 60), random.integers(0, 3, (60, 4))
    same = (labels[:, None] == labels[None]).mean(axis=2)  # of every two images, one by one
    expected = [[same[np.ix_(label == one, label == other)].mean() for other in range(3)] for one in range(3)]
    found = co_association(head_contingency(labels, label, np.full(4, 3), 3))
    np.testing.assert_allclose(found, expected)


def test_what_heads_mix_is_joined_and_a_chain_is_one_superclass():
    # 0-1-2 are mixed in a chain, so heads never take 0 for 2; 3 is mixed with 4, and 5 with none.
    label = np.repeat(np.arange(6), [40, 400, 40, 90, 30, 200])
    merges = tree_of(label, heads_of(label, [(0, 1), (2, 1), (3, 4)]), 6)
    assert cut(merges, 6, 3).tolist() == [0, 0, 0, 1, 1, 2]
    assert [one for *_, one in merges] == sorted(one for *_, one in merges)
    assert merges[0][:2] in {(0, 1), (1, 2), (3, 4)}


def test_classes_that_no_head_mixes_make_a_tree_that_is_always_the_same():
    label = np.repeat(np.arange(5), 20)
    trees = {tuple(tree_of(label, heads_of(label, [], seed=seed), 5)) for seed in range(3)}
    assert len(trees) == 1
    assert [len(set(cut(*trees, 5, count).tolist())) for count in range(1, 6)] == [1, 2, 3, 4, 5]


def test_two_classes_and_classes_without_images():
    label = np.repeat([1, 4], 10)
    merges = tree_of(label, heads_of(label, [(1, 4)]), 6)
    assert merges == [(1, 4, pytest.approx(2.0))]
    assert cut(merges, 6, 2).tolist() == [-1, 0, -1, -1, 1, -1]
    assert tree(np.eye(3), np.array([0, 5, 0])) == []


def test_heads_that_know_nothing_leave_no_noise_to_join_by():
    assert not similarity(np.full((3, 3), 0.25), np.array([10, 20, 30])).any()


@pytest.mark.parametrize("asked", [0, 4])
def test_a_cut_that_the_tree_does_not_have(asked):
    with pytest.raises(ValueError, match=f"{asked} superclasses asked for; the tree of 3 classes gives 1 to 3"):
        cut([(0, 1, 0.5), (3, 2, 1.0)], 3, asked)
