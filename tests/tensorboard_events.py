"""Reads TensorBoard's event files: records of length, its checksum, data, its checksum (TFRecord)."""

import struct

from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event


def _masked(data):
    """As TFRecord masks a checksum."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def events(path):
    """Every event of a file, whose checksums must be right."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == _masked(data[:8])
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == _masked(body)
        found.append(Event.FromString(body))
        data = data[16 + length :]
    return found


def curves(folder):
    """{tag: [(step, value)]} of the only event file in a folder, in the order of the file."""
    (path,) = folder.iterdir()
    found = {}
    for event in events(path):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found
