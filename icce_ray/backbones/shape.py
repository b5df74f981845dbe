"""Shapes of DINOv2-like transformers, and the operations and bytes that follow from them, without loading one."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

#: Pixels a side that a transformer sees by default, and images of one of its forward passes on a CPU.
TRANSFORMER_SIZE, CPU_SLICE = 224, 8


class TransformerShape(BaseModel):
    """A multiply-add counts as two operations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    ffn: Literal["mlp", "swiglu"] = "mlp"
    patch: int = Field(default=14, ge=1)
    registers: int = Field(default=0, ge=0)
    position_side: int = Field(default=518, ge=1)
    """Pixels a side of the images it was trained on: they set the number of position embeddings."""

    @property
    def hidden(self) -> int:
        """Width of the hidden layer of a block's feed-forward part: 4 d; for SwiGLU 2/3 of it, to a multiple of 8."""
        return 4 * self.width if self.ffn == "mlp" else (int(4 * self.width * 2 / 3) + 7) // 8 * 8

    def tokens(self, side: int) -> int:
        """CLS, registers and patches of one image of `side` pixels a side."""
        return 1 + self.registers + (side // self.patch) ** 2

    def flops(self, side: int) -> float:
        """Operations of the matrix products of one image's forward pass."""
        tokens, d = self.tokens(side), self.width
        products = 3 if self.ffn == "swiglu" else 2  # SwiGLU has a gate beside the hidden layer
        block = 2 * tokens * (4 * d * d + products * d * self.hidden) + 4 * tokens * tokens * d
        return float(self.depth * block + 2 * (side // self.patch) ** 2 * 3 * self.patch**2 * d)

    @property
    def parameters(self) -> int:
        """All parameters, those of the mask token included."""
        d = self.width
        wide = 2 * self.hidden if self.ffn == "swiglu" else self.hidden
        feed_forward = d * wide + wide + self.hidden * d + d
        block = 4 * d * d + 4 * d + feed_forward + 4 * d + 2 * d  # attention, feed-forward, two norms, two layer scales
        positions = 1 + (self.position_side // self.patch) ** 2
        return self.depth * block + (3 * self.patch**2 + 1) * d + (positions + 2 + self.registers) * d + 2 * d

    def activation_bytes(self, side: int, batch: int, *, blocks: bool) -> float:
        """Bytes of a batch on its way through one block, at most (float32); with `blocks` every block's output too."""
        kept = self.depth + 1 if blocks else 1
        return 4.0 * batch * self.tokens(side) * (2 * self.hidden + (6 + kept) * self.width)


_SIZES: dict[str, tuple[int, int, Literal["mlp", "swiglu"]]] = {
    "small": (384, 12, "mlp"),
    "base": (768, 12, "mlp"),
    "large": (1024, 24, "mlp"),
    "giant": (1536, 40, "swiglu"),
}
#: The models that DINOv2 and its successor with registers published.
PUBLISHED = {
    f"facebook/dinov2-{prefix}{size}": TransformerShape(width=width, depth=depth, ffn=ffn, registers=registers)
    for prefix, registers in (("", 0), ("with-registers-", 4))
    for size, (width, depth, ffn) in _SIZES.items()
}
