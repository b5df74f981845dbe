"""The paper's tables on features at hand, beside the paper's own figures: what each part of ICCE gives and why.

    python jobs/paper.py STUDY ... --on SET [--seeds 0 1 2]

STUDY is one or more of: ladder (Tables 1 and 5), smoothing (3), ground_truth (4), clusters (8), validation (10),
thresholds (11), heads (12), curve (neighbours of Table 11 at full size), rivals (k-means, mixtures, spectral
clustering, SCAN, TURTLE and others on the same features), nothing_set (the same rivals, and ICCE given K alone), kept
(which labelling to keep, by four criteria without labels), auto
(a threshold found without labels against those of Table 11), unknown_k (a number of clusters found without labels),
aligned (votes of matched heads, not the graph), duplicates (30 % copies), defaults (one setting at a time), spaces (two
feature spaces: alone, joined, all), or all (of these, without curve and spaces). SET is synthetic, digits, a Parquet
file with columns `bytes` (image files) and `label`, or with --labels a .npy matrix of features. Prints one
Markdown table per study; labels judge and do nothing else.

Figures are kept in --kept, so an interrupted study continues where it stopped. No Ray: it uses the cores it is given.
Example: python jobs/paper.py ladder thresholds --on digits --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from jobs.paper.aligned import aligned
from jobs.paper.auto import auto, pilot
from jobs.paper.curve import curve
from jobs.paper.defaults import defaults
from jobs.paper.duplicates import duplicates
from jobs.paper.feature_sets import FeatureSet, automatic_base, brought, digits, images, synthetic
from jobs.paper.kept import kept
from jobs.paper.measure import Measured
from jobs.paper.nothing_set import nothing_set
from jobs.paper.rivals import rivals
from jobs.paper.spaces import pair, spaces
from jobs.paper.studies import studies
from jobs.paper.synthetic import FeatureModel
from jobs.paper.tables import markdown, measured
from jobs.paper.unknown_k import unknown_k
from jobs.paper.variants import Variant

#: Tables that are not the paper's.
OTHERS = {
    "rivals": rivals,
    "nothing_set": nothing_set,
    "auto": auto,
    "kept": kept,
    "unknown_k": unknown_k,
    "aligned": aligned,
    "duplicates": duplicates,
    "defaults": defaults,
}
#: Of two feature spaces, not of one set as all others.
PAIRS = {"spaces": spaces}
NAMES = ("ladder", "smoothing", "ground_truth", "clusters", "validation", "thresholds", "heads", *OTHERS)


def main() -> None:
    """Print the tables that were asked for."""
    given = _parser().parse_args()
    wanted = NAMES if "all" in given.study else [name for name in given.study if name != "curve"]
    if "curve" in given.study:
        _print(curve(FeatureModel(), given.curve_images))
    if not wanted:
        return
    on = _chosen(given)
    say = (lambda text: print(text, file=sys.stderr, flush=True)) if not given.quiet else (lambda _: None)
    measure = Measured(on, given.kept, say)
    known = studies(on.base, given.heads)
    settings = "nothing set." if set(wanted) <= set(PAIRS) else _settings(on.base)
    _print(f"## {on.name}\n\nSeeds {', '.join(map(str, given.seeds))}; {settings}")
    for name in wanted:
        if name in PAIRS:
            _print(PAIRS[name](measure, given.seeds))
        elif name in OTHERS:
            options = {"cluster_range": tuple(given.cluster_range)} if name == "unknown_k" else {}
            _print(OTHERS[name](measure, given.seeds, **options))
        else:
            _print(markdown(known[name], measured(known[name], measure, given.seeds)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="+", choices=[*NAMES, *PAIRS, "curve", "all"], metavar="STUDY")
    parser.add_argument("--on", default="synthetic", metavar="SET", help="synthetic, digits, FILE.parquet or FILE.npy")
    parser.add_argument("--labels", type=Path, help="classes of the rows of FILE.npy, .npy of integers")
    parser.add_argument("--beside", type=Path, help="of spaces: .npz with `features` of the rows of FILE.parquet")
    parser.add_argument("--images", type=int, default=6425, help="synthetic images, or rows of a Parquet file at most")
    parser.add_argument("--classes", type=int, default=100, help="of the synthetic set")
    parser.add_argument(
        "--imbalance", type=float, default=1.0, help="of the synthetic set: largest class over smallest"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--heads", type=int, nargs="+", default=[10, 20, 40, 80], help="of the study of that name")
    parser.add_argument("--automatic", action="store_true", help="projection and recipe of ICCE with nothing set")
    parser.add_argument("--epochs", type=int, help="instead of those that suit the set")
    parser.add_argument("--batch", type=int, help="likewise")
    parser.add_argument("--threshold", type=_threshold, help="instead of the one that suits the set; auto: find it")
    parser.add_argument(
        "--cluster-range", type=int, nargs=2, default=[4, 256], metavar=("LOW", "HIGH"), help="of unknown_k"
    )
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--curve-images", type=int, default=128_500)
    parser.add_argument("--kept", type=Path, default=Path("paper-figures.jsonl"), help="figures measured so far")
    parser.add_argument("--quiet", "-q", action="store_true", help="show no progress")
    return parser


def _chosen(given: argparse.Namespace) -> FeatureSet:
    for name in (given.on if given.on.endswith((".parquet", ".npy")) else None, given.labels, given.beside):
        if name is not None and not Path(name).is_file():
            sys.exit(f"{name}: there is no such file; give the path of a .parquet file, or of .npy files")
    if set(given.study) & set(PAIRS):
        return pair(given.on, given.beside, given.images, FeatureModel(n_clusters=given.classes))
    if given.on == "synthetic":
        model = FeatureModel(n_clusters=given.classes, imbalance=given.imbalance)
        on = synthetic(given.images, model=model)
    elif given.on == "digits":
        on = digits()
    elif given.on.endswith(".parquet"):
        on = images(Path(given.on), given.images)
    elif given.on.endswith(".npy") and given.labels:
        on = brought(Path(given.on), given.labels, Variant())
    else:
        sys.exit(f"--on {given.on}: give synthetic, digits, a .parquet file, or a .npy file with --labels")
    if given.automatic:
        on = automatic_base(on)
    changes = {"epochs": given.epochs, "batch_size": given.batch, "threshold": given.threshold}
    changes["precision"] = given.precision
    changes = {name: value for name, value in changes.items() if value not in (None, "auto")}
    on = dataclasses.replace(on, base=on.base.but(**changes))
    if given.threshold == "auto":
        found = round(pilot(on, given.seeds[0]).threshold, 3)
        on = dataclasses.replace(on, base=on.base.but(threshold=found))
    return on


def _threshold(text: str) -> float | str:
    return text if text == "auto" else float(text)


def _settings(base: Variant) -> str:
    recipe = base.recipe
    return (
        f"threshold {base.threshold}, k_min {base.k_min}, {recipe.heads} heads ({recipe.hidden}, {recipe.bottleneck}), "
        f"{recipe.epochs} epochs, batch {recipe.batch_size}, learning rate {recipe.learning_rate:g}, "
        f"teacher momentum {recipe.teacher_momentum:g}, products in {base.precision}. In brackets the "
        "paper on ImageNet-100."
    )


def _print(text: str) -> None:
    print(text, flush=True)
