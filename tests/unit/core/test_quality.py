"""Trouble is what is bad in itself and unusual in its collection, however much of it there is."""

import numpy as np
import pytest

from icce_ray.core.quality import PROBLEMS, flagged, histograms, limits, shown


def photographs(count=2000, seed=0, **values):
    """Figures as of usual photographs, and others where `values` say so."""
    random = np.random.default_rng(seed)
    figures = {
        "width": random.integers(600, 1200, count),
        "height": random.integers(600, 1200, count),
        "brightness": random.normal(0.5, 0.03, count),
        "contrast": random.uniform(0.7, 0.9, count),
        "sharpness": 2 ** random.normal(-0.35, 0.15, count).clip(-0.8, 0),
    }
    return figures | {name: np.full(count, value) for name, value in values.items()}


TROUBLE = {
    "blank": {"contrast": 0.01},
    "dark": {"brightness": 0.1, "contrast": 0.18},
    "bright": {"brightness": 0.9, "contrast": 0.18},
    "blurred": {"sharpness": 0.4},
    "small": {"width": 100, "height": 80},
    "narrow": {"width": 2400, "height": 400},
}


def joined(*parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def found(figures):
    """{problem: image numbers}, with limits from histograms that are added up."""
    one, other = ({name: column[start::2] for name, column in figures.items()} for start in range(2))
    which = flagged(figures, limits(histograms(one) + histograms(other)))
    return {name: np.flatnonzero(one).tolist() for name, one in which.items() if one.any()}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("share", [1, 800])
def test_trouble_is_found_whether_one_image_has_it_or_a_third(problem, share):
    figures = joined(photographs(), photographs(share, seed=1, **TROUBLE[problem]))
    assert found(figures) == {problem: list(range(2000, 2000 + share))}


@pytest.mark.parametrize("problem", sorted(set(PROBLEMS) - {"blank"}))
def test_what_all_images_have_is_no_trouble(problem):
    assert found(photographs(**TROUBLE[problem])) == {}


def test_a_blank_picture_is_nothing_else():
    black = photographs(1, brightness=0.005, contrast=0.01, sharpness=0.3)
    assert found(joined(photographs(), black)) == {"blank": [2000]}


def test_limits_are_shown_as_people_read_figures():
    limit = {name: shown(name, value) for name, value in limits(histograms(photographs())).items()}
    assert limit["blank"] == 0.02
    assert (limit["dark"], limit["bright"], limit["blurred"]) == pytest.approx((0.3, 0.7, 0.4665), abs=1e-4)
    assert 200 < limit["small"] < 250
    assert 0.2 < limit["narrow"] < 0.3


def test_no_images_have_limits_too():
    nothing = {name: column[:0] for name, column in photographs().items()}
    assert found(nothing) == {}
