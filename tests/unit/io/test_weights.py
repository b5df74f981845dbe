"""Tensors in files: what is no safetensors file of ours is named, whatever its header says."""

import json
import struct

import pytest
import torch

from icce_ray.io.storage import Storage, StorageError
from icce_ray.io.weights import load_tensors, save_tensors
from tests.failures import fails


def test_round_trip(tmp_path):
    storage, tensors = Storage(tmp_path), {"w": torch.arange(6.0).reshape(2, 3), "empty": torch.empty(0, 4)}
    save_tensors(storage, "w.safetensors", tensors)
    found = load_tensors(storage, "w.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "header",
    [
        *({"w": {"dtype": kind, "shape": [2], "data_offsets": [0, 1]}} for kind in ("F4", "F6_E2M3", "F6_E3M2")),
        *({"w": {"dtype": kind, "shape": [1], "data_offsets": [0, 1]}} for kind in ("F8_E8M0", "C64", "Q9")),
        {"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [8, 0]}},
        *([], 1, "x", {"w": []}, {"w": None}),
    ],
    ids=str,
)
def test_hostile_headers(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with fails(StorageError, tmp_path / "w.safetensors"):
        load_tensors(Storage(tmp_path), "w.safetensors")
