"""Decoding and resizing to 224 x 224: images per second and core of several libraries, and how far the pixels are off.

    python jobs/bench/decode.py [--size 224 --images 4 --passes 5]

Pictures are scikit-learn's two photographs, enlarged, cut and given grain, as JPEG (quality 90, 4:2:0) of three sizes
and as PNG. Each library runs on one thread; a figure is the least processor time of some passes over the pictures.
The second figure of a cell is the mean absolute difference, of 255, from Pillow at full size with its antialiased
bicubic, which is what DINOv2 was evaluated with. A library that is not installed is left out, and named.
"""

from __future__ import annotations

import importlib
import io
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measuring import header, least, options, row
from PIL import Image, JpegImagePlugin
from sklearn.datasets import load_sample_images

from icce_ray.io.decode import decode, decode_and_measure
from icce_ray.io.rendering import Resizing

SIZES = ((500, 375), (1600, 1200), (4000, 3000))
BICUBIC = Image.Resampling.BICUBIC
EIGHTHS: tuple[int, ...] = (1, 2, 4, 8)  # sizes at which a JPEG can be decoded: 1/1, 1/2, 1/4, 1/8
Decoder = Callable[[bytes, int], np.ndarray]
Resizer = Callable[[np.ndarray, int], np.ndarray]


def pictures(width: int, height: int, count: int, kind: str) -> list[bytes]:
    """Files of so many pixels: parts of photographs, with grain so that a file has about a camera's bits a pixel."""
    rng, files = np.random.default_rng(0), []
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for index in range(count):
        whole = photographs[index % len(photographs)]
        left, top = rng.uniform(0, 60), rng.uniform(0, 40)
        box = (left, top, left + 560, top + 380)
        enlarged = np.asarray(whole.resize((width, height), BICUBIC, box=box), np.float32)
        grain = rng.normal(0, 4, (height, width, 1)).astype(np.float32)
        buffer = io.BytesIO()
        Image.fromarray((enlarged + grain).clip(0, 255).astype(np.uint8)).save(buffer, kind, quality=90)
        files.append(buffer.getvalue())
    return files


def pillow(data: bytes, size: int, *, room: float = 0.0, gap: float | None = None) -> np.ndarray:
    """Pillow; JPEGs at an eighth, a quarter or a half while `room` times the wanted size is left, 0 is full size."""
    return np.array(opened(data, size, room).resize((size, size), BICUBIC, reducing_gap=gap))


def opened(data: bytes, size: int, room: float) -> Image.Image:
    """Decoded by Pillow, JPEGs as `pillow` says."""
    image = Image.open(io.BytesIO(data))
    if room and isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, (round(room * size), round(room * size)))
    return image.convert("RGB")


def ours(data: bytes, size: int) -> np.ndarray:
    """What the stage `embed` calls, with all its checks."""
    return decode(data, size=size, resize="squash", max_pixels=10**9)


def measured_too(data: bytes, size: int) -> np.ndarray:
    """The same with the figures of the picture."""
    squares, _ = decode_and_measure(data, wanted=[(size, Resizing.named("squash", size))], max_pixels=10**9)
    return squares[0]


def by_pillow(pixels: np.ndarray, size: int) -> np.ndarray:
    """Pillow's antialiased bicubic."""
    return np.array(Image.fromarray(pixels).resize((size, size), BICUBIC))


def by_torch(pixels: np.ndarray, size: int) -> np.ndarray:
    """The same filter by torch, vectorised for uint8."""
    channels_last = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(channels_last, (size, size), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


def reduction(width: int, height: int, size: int) -> int:
    """The strongest of `EIGHTHS` that leaves twice the wanted size."""
    return max(factor for factor in EIGHTHS if factor == 1 or min(width, height) // factor >= 2 * size)


def _torchvision() -> dict[str, Decoder]:
    io_module = importlib.import_module("torchvision.io")

    def full(data: bytes, size: int) -> np.ndarray:
        chw = io_module.decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode="RGB")
        small = torch.nn.functional.interpolate(chw[None], (size, size), mode="bicubic", antialias=True)
        return small[0].permute(1, 2, 0).numpy()

    return {"torchvision, full size": full}


def _cv2() -> dict[str, Decoder]:
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    flags: dict[int, int] = dict(
        zip(EIGHTHS, (1, *(getattr(cv2, f"IMREAD_REDUCED_COLOR_{n}") for n in EIGHTHS[1:])), strict=True)
    )

    def run(data: bytes, size: int, flag: int) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(small, cv2.COLOR_BGR2RGB)

    def reduced(data: bytes, size: int) -> np.ndarray:
        return run(data, size, flags[reduction(*Image.open(io.BytesIO(data)).size, size)])

    return {"opencv, full size, area": lambda data, size: run(data, size, 1), "opencv, reduced, area": reduced}


def _simplejpeg() -> dict[str, Decoder]:
    simplejpeg = importlib.import_module("simplejpeg")

    def reduced(data: bytes, size: int, resize: Resizer, **options: Any) -> np.ndarray:
        # The least size that is allowed; a factor above 1 is how far a decoded picture may be below it.
        least = {"min_height": 2 * size, "min_width": 2 * size, "min_factor": 1}
        return resize(simplejpeg.decode_jpeg(data, "RGB", **least, **options), size)

    fast = {"fastdct": True, "fastupsample": True}
    return {
        "simplejpeg, full size": lambda data, size: by_pillow(simplejpeg.decode_jpeg(data, "RGB"), size),
        "simplejpeg, reduced": lambda data, size: reduced(data, size, by_pillow),
        "simplejpeg, reduced, fast DCT": lambda data, size: reduced(data, size, by_pillow, **fast),
        "simplejpeg, reduced, resized by torch": lambda data, size: reduced(data, size, by_torch),
    }


def _turbojpeg() -> dict[str, Decoder]:
    module = importlib.import_module("turbojpeg")
    decoder = module.TurboJPEG()

    def reduced(data: bytes, size: int) -> np.ndarray:
        width, height, *_ = decoder.decode_header(data)
        factor = (1, reduction(width, height, size))
        return by_pillow(decoder.decode(data, pixel_format=module.TJPF_RGB, scaling_factor=factor), size)

    return {"PyTurboJPEG, reduced": reduced}


def _pyvips() -> dict[str, Decoder]:
    pyvips = importlib.import_module("pyvips")
    pyvips.cache_set_max(0)  # else the second pass measures its cache

    def thumbnail(data: bytes, size: int) -> np.ndarray:
        return pyvips.Image.thumbnail_buffer(data, size, height=size, size="force").numpy()

    return {"pyvips thumbnail": thumbnail}


def _imagecodecs() -> dict[str, Decoder]:
    imagecodecs = importlib.import_module("imagecodecs")
    return {
        "imagecodecs, full size": lambda data, size: by_pillow(
            imagecodecs.png_decode(data) if data[:4] == b"\x89PNG" else imagecodecs.jpeg8_decode(data), size
        )
    }


def decoders() -> dict[str, Decoder]:
    """Every way that can run here, the obvious one first."""
    found: dict[str, Decoder] = {
        "Pillow, full size": pillow,
        "icce_ray": ours,
        "icce_ray, with figures": measured_too,
        "Pillow, draft to 1x": lambda data, size: pillow(data, size, room=1),
        "Pillow, draft to 1.5x": lambda data, size: pillow(data, size, room=1.5),
        "Pillow, draft to 2x": lambda data, size: pillow(data, size, room=2),
        "Pillow, draft to 2x, reducing_gap 2": lambda data, size: pillow(data, size, room=2, gap=2.0),
        "Pillow, draft to 2x, resized by torch": lambda data, size: by_torch(np.array(opened(data, size, 2)), size),
        "Pillow, reducing_gap 2": lambda data, size: pillow(data, size, gap=2.0),
        "Pillow, resized by torch": lambda data, size: by_torch(np.array(opened(data, size, 0)), size),
    }
    for load in (_torchvision, _cv2, _simplejpeg, _turbojpeg, _pyvips, _imagecodecs):
        try:
            found |= load()
        except (ImportError, RuntimeError, OSError) as error:  # not there, or without the C library it binds
            print(f"left out: {load.__name__[1:]} ({type(error).__name__}: {str(error).splitlines()[0][:90]})")
    return found


def measured(
    decoder: Decoder, files: list[bytes], truth: list[np.ndarray], size: int, passes: int
) -> tuple[float, float]:
    """Images per second and mean absolute difference from the truth; zero if the library has no such format."""
    try:
        found = [decoder(data, size) for data in files]
    except (ValueError, OSError, RuntimeError):
        return 0.0, 0.0
    error = np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(found, truth, strict=True)])
    return len(files) / least(lambda: [decoder(data, size) for data in files], passes, time.process_time), float(error)


def main() -> None:
    """Print the table."""
    args = options(__doc__, size=224, images=4, passes=5).parse_args()
    os.environ["VIPS_CONCURRENCY"] = "1"  # read when the library loads
    torch.set_num_threads(1)
    kinds = [(*size, "JPEG") for size in SIZES] + [(*SIZES[0], "PNG"), (*SIZES[1], "PNG")]
    ways = decoders()
    # Once a large block was freed, the C library keeps memory: before, small pictures take twice the time.
    pillow(pictures(*SIZES[-1], 1, "JPEG")[0], args.size)
    columns = []
    for width, height, kind in kinds:
        files = pictures(width, height, args.images, kind)
        truth = [pillow(data, args.size) for data in files]
        rates = [measured(way, files, truth, args.size, args.passes) for way in ways.values()]
        obvious = rates[0][0]
        columns.append([f"{rate:,.0f} ({rate / obvious:.2f}x) {error:.2f}" if rate else "-" for rate, error in rates])
    header("images/s/core (x) difference", *(f"{kind} {width} x {height}" for width, height, kind in kinds))
    for cells in zip(ways, *columns, strict=True):
        row(*cells)


if __name__ == "__main__":
    main()
