"""Operations, parameters and bytes of each stage, counted from the code that does the work.

A multiply-add counts as two operations. `tests/unit/planning/test_operations.py` holds these counts against the code:
the transformer's and the heads' against what torch counts, limits against the constants they repeat (which cannot be
imported here without torch).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

#: Distinct rows, pins and edges that CSPA, HGPA, HBGF and MCLA serve (`core.consensus`).
MAX_CSPA_ROWS, MAX_HGPA_PINS, MAX_HBGF_EDGES, MAX_MCLA_PAIRS = 20_000, 1_000_000, 10_000_000, 20_000_000
#: Votes of the heads at most (`core.consensus.rows.refine`).
MAX_VOTES = 20
#: Bytes the widest activation of one chunk of heads may take (`core.heads.heads_per_chunk`).
CHUNK_BYTES = {"cpu": 8 * 2**20, "gpu": 4 * 2**30}
#: Elements of a block of similarities (`core.search`).
BLOCK_ELEMENTS = {"cpu": 2**24, "gpu": 2**28}
#: Bytes a step moves for each logit of each head and row, all in float32: the tensors of that shape which
#: `core.training` and `core.losses` read and write, and as many again on the way back through the
#: student's part, taken as 60 passes.
LOGIT_BYTES = 60 * 4
#: Bytes a step moves for each parameter: parameter, gradient and two moments read and written by AdamW, parameter and
#: teacher read and teacher written by the moving average, float32.
UPDATE_BYTES = 11 * 4


@dataclass(frozen=True)
class Transformer:
    """Shape of a DINOv2-like vision transformer."""

    width: int
    depth: int
    ffn: Literal["mlp", "swiglu"] = "mlp"
    patch: int = 14
    registers: int = 0
    position_side: int = 518
    """Pixels a side of the images it was trained on: they set the number of position embeddings."""

    @property
    def hidden(self) -> int:
        """Width of the hidden layer of a block's feed-forward part: 4 d; for SwiGLU 2/3 of it, to a multiple of 8."""
        return 4 * self.width if self.ffn == "mlp" else (int(4 * self.width * 2 / 3) + 7) // 8 * 8

    def tokens(self, image_size: int) -> int:
        """CLS, registers and patches of one image."""
        return 1 + self.registers + (image_size // self.patch) ** 2

    def flops(self, image_size: int) -> float:
        """Operations of the matrix products of one image's forward pass."""
        tokens, d = self.tokens(image_size), self.width
        products = 3 if self.ffn == "swiglu" else 2  # SwiGLU has a gate beside the hidden layer
        block = 2 * tokens * (4 * d * d + products * d * self.hidden) + 4 * tokens * tokens * d
        patches = (image_size // self.patch) ** 2
        return float(self.depth * block + 2 * patches * 3 * self.patch**2 * d)

    @property
    def parameters(self) -> int:
        """All parameters, those of the mask token included."""
        d = self.width
        wide = 2 * self.hidden if self.ffn == "swiglu" else self.hidden
        feed_forward = d * wide + wide + self.hidden * d + d
        block = 4 * d * d + 4 * d + feed_forward + 4 * d + 2 * d  # attention, feed-forward, two norms, two layer scales
        positions = 1 + (self.position_side // self.patch) ** 2
        return self.depth * block + (3 * self.patch**2 + 1) * d + (positions + 2 + self.registers) * d + 2 * d

    def activation_bytes(self, image_size: int, batch: int, *, blocks: bool) -> float:
        """Bytes of a batch on its way through one block, at most (float32); with `blocks` every block's output too."""
        kept = self.depth + 1 if blocks else 1
        widest = 2 * self.hidden + 6 * self.width
        return 4.0 * batch * self.tokens(image_size) * (widest + kept * self.width)


def head_parameters(*, dim: int, hidden: int, bottleneck: int, clusters: int) -> int:
    """Parameters of one head (`core.heads.head_shapes`)."""
    return (dim + 1) * hidden + (hidden + 1) * bottleneck + bottleneck * clusters


def head_products(*, dim: int, hidden: int, bottleneck: int, clusters: int) -> int:
    """Multiply-adds of one row through one head."""
    return dim * hidden + hidden * bottleneck + bottleneck * clusters


def head_step_flops(*, products: int, dim: int, hidden: int, heads: int, rows: int, student_rows: int) -> float:
    """Operations of one step: teacher forward on `rows`, student forward and backward on `student_rows`.

    Backward takes twice the forward, but for the gradient of the first layer's input, which nobody needs.
    """
    student = 3 * products - dim * hidden
    return 2.0 * heads * (rows * products + student_rows * student)


def head_step_bytes(*, parameters: int, heads: int, rows: int, clusters: int) -> float:
    """Bytes one step moves beside its matrix products."""
    return float(heads) * (LOGIT_BYTES * rows * clusters + UPDATE_BYTES * parameters)


def head_memory(
    *,
    parameters: int,
    heads: int,
    rows: int,
    hidden: int,
    bottleneck: int,
    clusters: int,
    device: Literal["cpu", "gpu"],
) -> float:
    """Bytes of training beside features and neighbours: networks, gradients and moments; activations; targets."""
    chunk = max(1, min(heads, CHUNK_BYTES[device] // (4 * rows * max(hidden, clusters))))
    activations = 4.0 * rows * chunk * (2 * hidden + 2 * bottleneck + 6 * clusters)
    return 4.0 * 5 * heads * parameters + activations + 4.0 * rows * heads * clusters


def linear_flops(*, batch: int, widths: list[int], rates: int, clusters: int) -> float:
    """Operations of one iteration of the classifier's grid: the product and its gradient, for every input."""
    return 4.0 * batch * rates * clusters * sum(width + 1 for width in widths)


def classifier_widths(layout: list[int], block_dim: int) -> list[int]:
    """Columns of each input of the grid (`stages.labelling.classifier_inputs`), by widths of the feature's parts."""
    widths = [layout[0]] + ([sum(layout)] if len(layout) > 1 else [])
    if block_dim:
        widths += [block_dim] + ([block_dim + sum(layout[1:])] if len(layout) > 1 else [])
    return widths


def default_k_max(images: int, clusters: int, k_min: int) -> int:
    """`core.neighbors.default_k_max`."""
    return max(math.ceil(images / clusters), k_min)


def default_lists(rows: int) -> int:
    """`adapters.faiss_lists.default_lists`."""
    return max(1, min(round(4 * math.sqrt(rows)), rows // 39))


def default_probes(lists: int) -> int:
    """`adapters.faiss_lists.default_probes`."""
    return min(lists, max(16, lists // 8))


def share_of_files_read(images: int, sample: int, rows_per_file: int) -> float:
    """Share of the feature files that hold an image of a uniform sample: the stage `sample` reads them whole."""
    return 1.0 - math.exp(-rows_per_file * sample / images)
