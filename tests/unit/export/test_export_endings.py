"""The ending of an exported image is that of its bytes."""

import io
from pathlib import PurePath

import pytest
from PIL import Image

from icce_ray.export.samples import HEAD, ending_of
from icce_ray.io.decode import Reject
from tests.failures import fails
from tests.pictures import files

FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_every_format_has_an_ending(name):
    head = FILES[name][:HEAD]
    assert ending_of(head, name.upper()) == PurePath(name).suffix
    assert ending_of(head, "no ending") == ending_of(head, "wrong.svg")
    Image.init()
    wanted = str(Image.open(io.BytesIO(FILES[name])).format)
    assert Image.EXTENSION[ending_of(head, "")] == wanted.replace("MPO", "JPEG")


@pytest.mark.parametrize("head", [b"", b"<html>", b"RIFF0000WAVE", b"%PDF-1.7"])
def test_what_is_no_image_is_rejected(head):
    with fails(Reject, "not_an_image"):
        ending_of(head, "a.png")
