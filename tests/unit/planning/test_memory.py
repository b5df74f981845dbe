"""Heads that do not fit the GPUs are an error before anything is mined, where that is certain, else before training."""

import pytest

from icce_ray.planning.memory import check_heads_fit
from icce_ray.settings import load
from icce_ray.store import RunError
from tests.failures import fails
from tests.unit.planning.test_plan import of, planned

IMAGES, DIM = 2_000_000, 2048  # the largest sample that is learned by default
L4, L40S = 24 * 10**9, 48 * 10**9


def checked(gpu_memory, pairs=None, dims=(DIM,), heads=lambda heads: heads, **values):
    """The lines that the log gets, of a run."""
    lines = []
    settings = load({"source": "s", "out": "o", "clusters": 1000, **values})
    facts = {"images": IMAGES, "dims": dims, "workers": lambda _: 1, "gpu_memory": gpu_memory}
    check_heads_fit(settings, pairs=pairs, heads=heads, log=lines.append, **facts)
    return lines


def test_what_no_lists_could_fit_is_an_error_before_mining():
    with fails(RunError, "8.0 GB", "2,000,000 images", "50 neighbours", "heads.max_images"):
        checked(8 * 10**9)


def test_what_only_long_lists_would_not_fit_is_said_before_mining_and_an_error_after_it():
    assert checked(L40S) == []
    [line] = checked(L4)
    most = int(line.partition("neighbors.k_max=")[2].split()[0])
    assert 50 < most < 2000
    assert checked(L4, neighbors={"k_max": most}) == []
    assert len(checked(L4, neighbors={"k_max": most + 1})) == 1
    assert checked(L4, pairs=IMAGES * most) == []
    with fails(RunError, "24.0 GB", f"{most + 1:,} neighbours", "--redo neighbors", f"neighbors.k_max={most}"):
        checked(L4, pairs=IMAGES * (most + 1))


def test_the_limit_is_the_plans_figure():
    """A run that a plan says fits is not stopped, and one that it says does not is."""
    figure = of(planned(IMAGES, gpus=1, gpu_type="l4"), "heads").device_memory
    assert checked(figure) == []
    assert len(checked(figure - 1)) == 1


@pytest.mark.parametrize("values", [{"clusters": "auto"}, {"neighbors": {"mode": "ground_truth", "labels": "x.csv"}}])
def test_nothing_is_said_of_lists_of_which_nothing_is_known(values):
    assert checked(10**9, **values) == []


def test_of_several_spaces_the_joined_one_is_as_wide_as_all_and_has_a_share_of_the_heads():
    with fails(RunError, "4,096 numbers", "25 heads"):
        checked(8 * 10**9, dims=(DIM, DIM), heads=lambda heads: heads - heads // 2)
