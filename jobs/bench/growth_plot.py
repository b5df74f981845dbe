"""The plot of `growth.py`: seconds and memory of every stage over the number of images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure
from measuring import slope

PANELS = {"seconds": "seconds", "peak": "peak memory above the empty process, MiB"}


def plotted(results: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """An SVG of two panels; exponents stand in the legend, and a dashed line grows as the images do."""
    with mpl.rc_context({"svg.hashsalt": "icce", "font.size": 9}):
        figure = Figure(figsize=(11.0, 5.0), layout="constrained")
        for axis, (key, label) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            axis.set(xscale="log", yscale="log", xlabel="images", ylabel=label)
            for name, found in results.items():
                values = [max(value, 0.1 if key == "peak" else 1e-3) for value in found[key]]
                text = f"{name} {slope(found['images'], values):.2f}"
                axis.plot(found["images"], values, marker="o", markersize=4, label=text)
            low, high = axis.get_xlim()
            bottom = axis.get_ylim()[0]
            axis.plot([low, high], [bottom, bottom * high / low], "k--", linewidth=0.8, label="linear 1.00")
            axis.grid(visible=True, alpha=0.3)
            axis.legend(loc="best", fontsize=8, title="exponent")
        sink = io.BytesIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()
