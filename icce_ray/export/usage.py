"""What a predictor's folder holds, and the lines of Python that use it."""

from __future__ import annotations

from icce_ray.export.predictor import Trained

_ONNX = """
import json
from pathlib import Path

import numpy as np
import onnxruntime
{imports}
names = json.loads(Path("labels.json").read_text())
session = onnxruntime.InferenceSession("{graph}.onnx", providers=["CPUExecutionProvider"])
{values}
probabilities = session.run(None, {{"{given}": {given}}})[0]
print(names[probabilities[0].argmax()], probabilities[0].max())
"""
_TORCH = """
import json
from pathlib import Path

import numpy as np
import torch
{imports}
names = json.loads(Path("labels.json").read_text())
model = torch.jit.load("{graph}.pt")
{values}
probabilities = model(torch.tensor({given}))
print(names[probabilities[0].argmax()], probabilities[0].max().item())
"""
_SKLEARN = """
import json
from pathlib import Path

import numpy as np
from predictor import load

names = json.loads(Path("labels.json").read_text())
{values}
probabilities = load().predict_proba(features)
print(names[probabilities[0].argmax()], probabilities[0].max())
"""
_TRANSFORMERS = """
from transformers import pipeline

classify = pipeline("image-classification", model=".")
print(classify("photo.jpg", top_k=1))
"""
_CODE = {"onnx": _ONNX, "torchscript": _TORCH, "sklearn": _SKLEARN, "huggingface": _TRANSFORMERS}
_PICTURE = {
    "graph": "predictor",
    "given": "pixels",
    "imports": "from PIL import Image, ImageOps\n",
    "values": """image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
pixels = np.asarray(image)[None]""",
}
_FEATURES = {
    "graph": "head",
    "given": "features",
    "imports": "",
    "values": """# As the run stores them in features/; cls_blocks, if it has them, behind the others.
features = np.load("features.npy").astype(np.float32)""",
}
#: Files of a format; the second takes pictures. {width} numbers a row of features, {classes} classes.
_FILES = {
    "onnx": (
        "`head.onnx`: `features` float32 [B, {width}] to `probabilities` float32 [B, {classes}].",
        "`predictor.onnx`: `pixels` uint8 [B, H, W, 3], upright RGB of any height and width, to the same.",
    ),
    "torchscript": (
        "`head.pt`: features float32 [B, {width}] to probabilities float32 [B, {classes}]. (torch calls TorchScript "
        "deprecated: prefer ONNX where you may choose.)",
        "`predictor.pt`: pixels uint8 [B, H, W, 3], upright RGB of any height and width, to the same.",
    ),
    "sklearn": (
        "`classifier.npz`: coef, intercept and classes 0 to K - 1, for features of {width} numbers; `predictor.py` "
        "makes of them a fitted LogisticRegression.",
    ),
    "huggingface": ("`config.json`, `model.safetensors`, `preprocessor_config.json`: what `transformers` reads.",),
}


def usage(trained: Trained, form: str) -> str:
    """Markdown: the files of the format, and code that is run in the folder, where the picture or features lie too."""
    pictures = trained.info is not None and form in ("onnx", "torchscript")
    files = [one.format(width=trained.head.weight.shape[1], classes=trained.classes) for one in _FILES[form]]
    listed = [f"- {one}" for one in (files if pictures else files[:1])]
    code = _CODE[form].format(**(_PICTURE if pictures else _FEATURES))
    return "\n".join([*listed, "- `labels.json`: the name of each class.", "", "```python", code.strip(), "```"])
