"""Unit tests work without Ray: one that started it would change what others find in its process."""

import pytest


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    """Ray is not started, nor by a function that starts it when it is asked for something."""
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
