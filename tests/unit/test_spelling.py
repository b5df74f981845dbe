"""What mistyped names are taken for, and when nothing is suggested."""

import pytest

from icce_ray.spelling import did_you_mean, nearest

KNOWN = ("seed", "neighbors", "neighbors.mode", "heads.epochs", "heads.beta", "heads.heads", "classifier.iterations")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("seed", "seed"),
        ("sede", "seed"),
        ("SEED", "seed"),
        ("neighbours", "neighbors"),
        ("head.epoch", "heads.epochs"),
        ("head.heads", "heads.heads"),
        ("iterations", "classifier.iterations"),
        ("heads.iterations", "classifier.iterations"),
        ("embed.model", None),  # in another group only what is nearly the same
        ("heads.lr", None),  # though most of its letters are those of heads.beta
        ("xyzzy", None),
        ("", None),
    ],
)
def test_nearest(name, meant):
    assert nearest(name, KNOWN) == meant


def test_of_nothing_nothing_is_near():
    assert nearest("seed", ()) is None


def test_a_message_goes_on_after_it():
    assert f"{did_you_mean('sede', KNOWN)}known:" == "did you mean seed? known:"
    assert f"{did_you_mean('xyzzy', KNOWN)}known:" == "known:"
