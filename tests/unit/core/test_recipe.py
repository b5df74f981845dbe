"""Settings of training that the core resolves by itself."""

import pytest

from icce_ray.core.recipe import product_precision


@pytest.mark.parametrize(
    ("precision", "device", "dtype"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "cuda", "bfloat16"),
        ("bfloat16", "cpu", "bfloat16"),
        ("float32", "cuda", "float32"),
    ],
)
def test_auto_is_bfloat16_on_cuda_only(precision, device, dtype):
    assert product_precision(precision, device) == dtype
