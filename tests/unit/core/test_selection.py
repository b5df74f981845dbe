"""The label-free objective against its definition, and the chance of a right neighbour."""

import numpy as np
import pytest
import torch

from icce_ray.core.neighbors import Neighbors
from icce_ray.core.selection import modularity, nearest, neighbor_accuracy
from tests.failures import fails


def lists_of(*rows):
    offsets = np.cumsum([0, *map(len, rows)])
    return Neighbors(
        torch.tensor(offsets), torch.tensor([i for row in rows for i in row], dtype=torch.int32), torch.empty(0)
    )


def slow_modularity(labels, graph):
    """Share of edges within clusters less the product of the shares of starts and ends, edge by edge."""
    edges = [(labels[i], labels[j]) for i, row in enumerate(graph) for j in row]
    clusters = set(labels)
    starts = {c: sum(a == c for a, _ in edges) / len(edges) for c in clusters}
    ends = {c: sum(b == c for _, b in edges) / len(edges) for c in clusters}
    return sum(a == b for a, b in edges) / len(edges) - sum(starts[c] * ends[c] for c in clusters)


def test_modularity_is_its_definition():
    generator = np.random.default_rng(0)
    labels, graph = generator.integers(0, 4, 60), generator.integers(0, 60, (60, 5))
    found = modularity(torch.from_numpy(labels), torch.from_numpy(graph).int(), 6)
    assert found == pytest.approx(slow_modularity(labels.tolist(), graph.tolist()), abs=1e-12)


def test_collapsed_solutions_score_low():
    """Two cliques in a ring of ids: right 0.5, merged 0, chance about 0, and c clusters at most 1 - 1/c."""
    truth = torch.arange(40) // 20
    graph = torch.stack([(torch.arange(40) - 20 * truth + step) % 20 + 20 * truth for step in range(1, 6)], dim=1)
    assert modularity(truth, graph, 2) == pytest.approx(0.5)
    assert modularity(torch.zeros(40, dtype=torch.int32), graph, 2) == pytest.approx(0.0)
    assert abs(modularity(torch.arange(40) % 2, graph, 2)) < 0.15


def test_nearest_are_the_first_of_each_list():
    lists = lists_of([3, 1, 2], [0, 2], [1, 3, 0])
    assert nearest(lists, 2).tolist() == [[3, 1], [0, 2], [1, 3]]
    with fails(ValueError, "2 neighbours", "takes 3", "k_min >= 3"):
        nearest(lists, 3)


@pytest.mark.parametrize("block_rows", [1, 2, 8192])
def test_neighbor_accuracy_is_the_chance_of_a_right_pair(block_rows):
    lists = lists_of([1, 2], [0], [0, 1, 3], [2], [0, 1])
    truth = torch.tensor([0, 0, 1, 1, 0])
    chances = [1 / 2, 1, 1 / 3, 1, 1]
    assert neighbor_accuracy(lists, truth, block_rows) == pytest.approx(np.mean(chances))


def test_unknown_classes_count_neither_way():
    lists = lists_of([1, 2], [0], [0, 1, 3], [2])
    assert neighbor_accuracy(lists, torch.tensor([0, -1, 0, -1])) == pytest.approx((1 + 1) / 2)
    assert np.isnan(neighbor_accuracy(lists, torch.tensor([-1, -1, -1, -1])))
