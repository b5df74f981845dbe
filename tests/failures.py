"""Errors are asserted by their type, the value at fault and the remedy, so that a sentence may be reworded freely."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def fails(kind: type[BaseException], *parts: object) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """The block raises `kind`, and its message holds every one of `parts`: value, limit, remedy.

    `parts` are the facts of the message, such as a number, a path, an option or a setting's name, never its prose.
    """
    with pytest.raises(kind) as caught:
        yield caught
    message = str(caught.value)
    missing = [str(part) for part in parts if str(part) not in message]
    assert not missing, f"{missing} not in {message!r}"
