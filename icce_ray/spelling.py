"""What a mistyped name was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Below this share of equal letters (`difflib`'s ratio, and its default) a guess misleads more than it helps.
NEAR = 0.6
NEARLY_SAME = 0.9
#: Of the part before the last dot, next to the last part's: it decides between equal names, not against an equal one.
GROUP_WEIGHT = 0.3


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is spelled most like `name`, or None where none is near.

    Of dotted names the last part has to be near by itself: `heads.lr` is not meant to be `heads.beta`, however alike
    the whole of them is, and `head.epochs` is `heads.epochs`. In a group of another name it has to be nearly the same.
    """
    scores = {one: _score(name.lower(), one.lower()) for one in names}
    best = max(scores, key=lambda one: scores[one], default=None)
    return best if best is not None and scores[best] >= NEAR else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`did you mean NAME? `, for a message to go on after, or nothing where none is near."""
    near = nearest(name, names)
    return f"did you mean {near}? " if near else ""


def _score(name: str, one: str) -> float:
    (group, _, last), (other_group, _, other_last) = name.rpartition("."), one.rpartition(".")
    pairs = ((last, other_last), (group, other_group))
    alike, groups = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
    needed = NEARLY_SAME if group and groups < NEAR else NEAR
    return alike + GROUP_WEIGHT * groups if alike >= needed else 0.0
