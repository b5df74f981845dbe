"""One frozen model per stage, every default with its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from icce_ray.core import recipe as core
from icce_ray.io.locations import refuse_secrets

TableFormat = Literal["parquet", "datasets", "lance"]
Format = Literal["auto", "files", "webdataset", "img2dataset", TableFormat, "uris", "features"]
FeatureKind = Literal["cls", "cls+patch_mean", "patch_mean", "pooled", "hog", "hog+color"]
Method = Literal["cspa", "hgpa", "mcla", "hbgf"]
#: Counts end where 32 bits do, as those of FAISS, METIS and Arrow; what is only compared, and seeds, where 64 do.
Natural = Annotated[int, Field(ge=1)]
Positive = Annotated[Natural, Field(le=2**31 - 1)]
Large = Annotated[Natural, Field(le=2**63 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
#: Processes side by side: one for each GPU of a large cluster.
Workers = Annotated[Natural, Field(le=1024)]
Rate = Annotated[float, Field(**core.BOUNDS["learning_rate"])]
Value = TypeVar("Value")
Location = Annotated[str, Field(min_length=1), AfterValidator(refuse_secrets)]


class Frozen(BaseModel):
    """Settings that do not change once made, without names that do not exist."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def _auto_or(value: Any, number: ValidatorFunctionWrapHandler) -> Any:
    return value if value == "auto" else number(value)


if TYPE_CHECKING:
    # Wherever these are counted with, stage neighbors has put numbers in the place of `auto` and None.
    Threshold = float | Literal["auto"]
    Clusters = int
    Chosen = Annotated[Value, ""]
else:  # as a union every fault would be two: neither a number in the range nor "auto"
    _AUTO = WrapValidator(_auto_or), PlainSerializer(lambda value: value)
    Threshold = Annotated[float, Field(**core.BOUNDS["threshold"]), *_AUTO] | None
    Chosen = Value | None
    Clusters = Annotated[int, Field(ge=2, le=2**31 - 1), *_AUTO]


def _one_or_several(value: Any, name: ValidatorFunctionWrapHandler) -> Any:
    """A name, or several, each once."""
    if not isinstance(value, (list, tuple)):
        return name(value)
    names = [name(one) for one in value]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{names}: give at least one name, and each once")
    return tuple(names) if len(names) > 1 else names[0]


if TYPE_CHECKING:
    Names = str | tuple[str, ...]
else:  # as a union every fault would be two
    _SEVERAL = PlainSerializer(lambda value: value if isinstance(value, str) else list(value))
    Names = Annotated[str, WrapValidator(_one_or_several), _SEVERAL]


class ListSettings(Frozen):
    """What kind of source the images come from."""

    format: Format = "auto"
    """`files` (a folder or prefix), `webdataset` (tar files), `img2dataset` (its output), `parquet`, `datasets`
    (a folder of Hugging Face's `save_to_disk`) and `lance` (images in a column), `uris` (a list of them), `features`
    (.npy or Parquet, computed elsewhere), or `auto`: look at it."""
    column: str | None = None
    """Of tables: the column with images, URIs or features; by default the only one that can be meant. Several of
    features, as hog,effnet, are feature spaces side by side; of a folder of .npy files these are hog.npy and
    effnet.npy, or folders hog and effnet of files of the same names, whose rows i are of the same image."""
    key_column: str | None = None
    """Of tables: the column that names each image; by default a usual one (key, id, path ...), else the row."""


class EmbedSettings(Frozen):
    """Images to frozen features (paper 3.1 and 4.2)."""

    backbone: Names = "facebook/dinov2-large"
    """A hub id or local directory of an image model of transformers (DINOv2 and 3, SigLIP, CLIP, ViT, MAE, I-JEPA,
    Swin, ...), `timm:NAME` (needs `pip install icce-ray[timm]`), or `hog`, which needs no weights. A list of
    several gives as many feature spaces, of images that are read and decoded once."""
    features: FeatureKind | None = None
    """By default what the family's authors classify linearly: `cls+patch_mean` of DINOv2 (ICCE) and 3, where `cls` is
    TEMI's; `cls` of ViT and MAE; `patch_mean` of I-JEPA; `pooled` by the model itself of CLIP, SigLIP, Swin, timm and
    all others; `hog+color` or `hog` of hog."""
    n_last_blocks: Literal[1, 4] = 1
    """4 also stores the CLS tokens of the last 4 blocks, which the grid of classifiers of the paper tries as well; of
    models with a CLS token in every block."""
    image_size: Natural | None = Field(default=None, le=8192)
    """Pixels per side; by default the backbone's own (224 for DINOv2, as in the paper)."""
    resize: Literal["squash", "crop"] | None = None
    """`squash` to the square (the paper), or `crop` its centre after resizing by 256/224 (DINOv2's evaluation). By
    default as the model's own processor does it, but `squash` for DINOv2 and hog."""
    precision: core.Precision = "auto"
    """Of the network's matrix products. `auto` is bfloat16 on CUDA, float32 elsewhere; bfloat16 is nearly three
    times faster on CPUs that have it (AVX512-BF16, AMX), its features have a cosine of 0.9999 with those of float32."""
    max_pixels: Large = 100_000_000
    """Larger images are rejected before they are decoded: decompression bombs."""
    max_bytes: Large = 256 * 2**20
    """Larger files are rejected before they are read."""
    reject_budget: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of inputs that may be rejected before the run stops with an error."""
    rows_per_shard: Positive = 1024
    """Images per Parquet shard: the unit of work, and of what a killed run repeats."""

    @model_validator(mode="after")
    def _blocks(self) -> EmbedSettings:
        if self.n_last_blocks > 1 and len(self.backbones) > 1:
            raise ValueError(
                f"n_last_blocks = {self.n_last_blocks} is of a single backbone, not of {len(self.backbones)}; leave it "
                "at 1, or give one backbone"
            )
        return self

    @property
    def backbones(self) -> tuple[str, ...]:
        """All names."""
        return (self.backbone,) if isinstance(self.backbone, str) else self.backbone


class NeighborsSettings(Frozen):
    """Adaptive nearest neighbours (paper 3.1)."""

    mode: Literal["adaptive", "fixed", "ground_truth"] = "adaptive"
    """`fixed` takes the k_min nearest (TEMI); `ground_truth` all images of the same class (paper Table 4), from
    `labels`: an upper bound, never a result."""
    components: Chosen[int] = Field(default=None, **core.BOUNDS["components"])
    """Principal components, of centred features, that neighbours and heads see; 0 leaves the features as they are
    (paper). By default 128 of fewer than 500,000 images; the classifier sees the features in any case."""
    threshold: Threshold = Field(default=cast("Threshold", None))
    """Cosine similarity of neighbours; by default 0.3 from 500,000 images on (paper), else 0.5. `auto` finds one
    without labels by a short training on a sample of at most 20,000 images, or 50 per cluster."""
    cluster_range: tuple[Annotated[int, Field(ge=4)], Annotated[int, Field(ge=5, le=2**31 - 1)]] = core.CLUSTER_RANGE
    """Where `clusters: auto` looks: a short training for every factor of 1.4, from at least 4 to at most N / k_min."""
    k_min: Chosen[int] = Field(default=None, **core.BOUNDS["k_min"])
    """At least this many neighbours, the nearest; by default 50 (paper), of smaller sets at most 20."""
    k_max: Positive | None = None
    """At most this many; by default ceil(N / K), at least k_min (ours, after the paper's Table 11)."""
    search: Literal["torch", "faiss", "ivf"] = "torch"
    """`torch` and `faiss` are exact and give the same neighbours; `ivf`, FAISS's inverted file, looks at a part of the
    images only, where exact search takes too long, and may differ a little between a CPU and a GPU. Both of FAISS need
    `pip install icce-ray[faiss]` or, on GPUs, `[gpu]`; there k_max is at most 2,039."""
    recall: float = Field(default=0.95, gt=0.0, le=1.0)
    """Of `ivf`: the share of the exact neighbours it must find, or the run stops."""
    recall_queries: Positive = 1000
    """Of `ivf`: images, drawn at random, on which the recall is measured before the others are searched."""
    ivf_lists: Natural | None = Field(default=None, le=131_072)
    """Of `ivf`: inverted lists of each 131,072 images; by default 4 times the square root of their number (FAISS's
    guideline), at most one for 39 images."""
    ivf_probes: Natural | None = Field(default=None, le=131_072)
    """Of `ivf`: of these, how many a query sees, or more to find k_min images; by default 1 in 8, at least 16."""
    rows_per_shard: Positive = 4096
    """Images per Parquet shard of neighbour lists."""
    labels: Location | None = None
    """Only for `ground_truth`: CSV or Parquet file with columns uri and label."""

    @model_validator(mode="after")
    def _limits(self) -> NeighborsSettings:
        if self.k_max is not None and self.k_min is not None and self.k_max < self.k_min:
            raise ValueError(f"k_max = {self.k_max} is below k_min = {self.k_min}; raise k_max or lower k_min")
        low, high = self.cluster_range
        if low >= high:
            raise ValueError(f"cluster_range = {low}, {high}: give the lowest number of clusters, then a higher one")
        if (self.mode == "ground_truth") != (self.labels is not None):
            raise ValueError(f"mode = {self.mode}, labels = {self.labels}: `ground_truth`, and only it, needs labels")
        return self


class HeadsSettings(Frozen):
    """Multi-head training (paper 3.1 and 4.2; TEMI): `core.recipe.Recipe`, which the recipe fills, and more."""

    heads: Chosen[int] = Field(default=None, **core.BOUNDS["heads"])
    """Clustering heads (paper: 50)."""
    hidden: Chosen[int] = Field(default=None, **core.BOUNDS["hidden"])
    """Width of the hidden layer (TEMI: 512)."""
    bottleneck: Chosen[int] = Field(default=None, **core.BOUNDS["bottleneck"])
    """Width of the layer that is L2-normalised (TEMI: 256)."""
    epochs: Chosen[int] = Field(default=None, **core.BOUNDS["epochs"])
    """Paper: 400, and 800 for small sets."""
    batch_size: Chosen[int] = Field(default=None, **core.BOUNDS["batch_size"])
    """Anchors per step; the paper takes 256 for CIFAR-sized sets."""
    learning_rate: Chosen[float] = Field(default=None, **core.BOUNDS["learning_rate"])
    """AdamW, for a batch of 256; scales linearly with the batch (TEMI: 1e-4)."""
    warmup_epochs: Chosen[int] = Field(default=None, **core.BOUNDS["warmup_epochs"])
    """Linear warm-up (TEMI: 20); by default a tenth of the epochs."""
    weight_decay: float = Field(default=core.Recipe.weight_decay, **core.BOUNDS["weight_decay"])
    """Of AdamW (TEMI; the paper's value is lost)."""
    student_temperature: float = Field(default=core.Recipe.student_temperature, **core.BOUNDS["student_temperature"])
    """Logits of the student are divided by it (TEMI)."""
    teacher_temperature: float = Field(default=core.Recipe.teacher_temperature, **core.BOUNDS["teacher_temperature"])
    """Logits of the teacher are divided by it (TEMI; the paper's value is lost)."""
    teacher_momentum: Chosen[float] = Field(default=None, **core.BOUNDS["teacher_momentum"])
    """EMA of the student (TEMI: 0.996); by default it remembers a small share of the training."""
    marginal_momentum: float = Field(default=core.Recipe.marginal_momentum, **core.BOUNDS["marginal_momentum"])
    """EMA of the class marginal (TEMI)."""
    beta: float = Field(default=core.Recipe.beta, **core.BOUNDS["beta"])
    """Exponent of TEMI's mutual information (TEMI)."""
    ce_weight: float = Field(default=core.Recipe.ce_weight, **core.BOUNDS["ce_weight"])
    """Weight the cross-entropy term reaches, by a cosine ramp; 0 leaves it out (paper eq. 3; the value is ours)."""
    teacher: core.Teacher = core.Recipe.teacher
    """Sinkhorn-Knopp centring (paper) or none (TEMI)."""
    sinkhorn_iterations: int = Field(default=core.Recipe.sinkhorn_iterations, **core.BOUNDS["sinkhorn_iterations"])
    """Paper 3.1."""
    cluster_prior: core.ClusterPrior = core.Recipe.cluster_prior
    """Cluster sizes that Sinkhorn aims at: equal (paper), or, for classes of unequal size, each head's own estimate:
    the moving mean of its teacher before Sinkhorn, at least about a tenth of N / K (ours)."""
    prior_strength: Chosen[float] = Field(default=None, **core.BOUNDS["prior_strength"])
    """How far Sinkhorn goes there: 1 all the way (paper), less leans (unbalanced optimal transport), 0 not at all."""
    prior_momentum: float = Field(default=core.Recipe.prior_momentum, **core.BOUNDS["prior_momentum"])
    """EMA of the estimate (ours)."""
    input_norm: core.InputNorm = core.Recipe.input_norm
    """Batch normalisation (paper) or standardisation over the set (TEMI)."""
    smoothing_neighbors: int = Field(default=core.Recipe.smoothing_neighbors, **core.BOUNDS["smoothing_neighbors"])
    """Neighbours whose teacher outputs are averaged (paper Table 3); 1 is off."""
    precision: core.Precision = "auto"
    """Of the matrix products of the heads; losses, Sinkhorn and optimiser stay in float32. `auto` is bfloat16 on CUDA,
    float32 elsewhere; on CPUs that have it (AVX512-BF16, AMX) bfloat16 is about three times faster."""
    max_images: Large = 2_000_000
    """Of more images, neighbours, heads, consensus and classifier see a uniform sample of this size, and the classifier
    labels all (paper 3.3)."""
    sample_seed: Seed = 0
    """Of that sample; not the run's seed, so that heads of several seeds share one sample and its neighbours."""
    checkpoint_epochs: Positive = 10
    """A killed run goes on from the last checkpoint."""

    @model_validator(mode="after")
    def _schedule(self) -> HeadsSettings:
        warmup, epochs = self.warmup_epochs, self.epochs
        if None not in (warmup, epochs) and warmup > epochs:
            raise ValueError(f"warmup_epochs = {warmup} is above epochs = {epochs}; lower it or train longer")
        return self

    def recipe(self) -> dict[str, Any]:
        """The fields of `core.recipe.Recipe`."""
        return self.model_dump(exclude={"precision", "max_images", "sample_seed", "checkpoint_epochs"})


class ConsensusSettings(Frozen):
    """Cluster ensembles (paper 3.2)."""

    methods: tuple[Method, ...] = Field(default=("cspa", "hgpa", "mcla", "hbgf"), min_length=1)
    """Candidates, of which the one with the highest ANMI is kept; those that cannot serve the size say so."""


class ClassifierSettings(Frozen):
    """Self-training of linear classifiers (paper 3.3; DINOv2's linear protocol)."""

    iterations: Chosen[int] = Field(default=None, **core.BOUNDS["iterations"])
    """SGD steps; by default 12,500 (paper 4.2), of smaller sets 100 passes over the images."""
    batch_size: int = Field(default=core.GridRecipe.batch_size, **core.BOUNDS["batch_size"])
    """Images per step."""
    l2: Chosen[float] = Field(default=None, **core.BOUNDS["l2"])
    """Weight of half the squared length of the classifiers' weights in their loss; by default 0.01, of the paper 0."""
    agreement_power: Chosen[float] = Field(default=None, **core.BOUNDS["agreement_power"])
    """Power of the agreement of the heads that weighs each image; by default 2, of the paper 0: all count the same."""
    learning_rates: tuple[Rate, ...] = Field(default=core.GridRecipe.learning_rates, min_length=1)
    """Grid, for a batch of 256 (DINOv2)."""
    holdout: float = Field(default=core.HOLDOUT, **core.BOUNDS["holdout"])
    """Share of images whose consensus labels choose the winner (ours: the paper chooses by true accuracy)."""
    precision: core.Precision = "auto"
    """Of the matrix products, as that of the heads; softmax, weights and momentum stay in float32."""


class InspectSettings(Frozen):
    """What people look at when the classes are there; it changes none of them."""

    map_images: int = Field(default=50_000, ge=0, le=1_000_000)
    """Images on the map of the report, a uniform sample where there are more; 0 makes none."""
    duplicates: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["auto"] = "auto"
    """Similarity from which two images are near-duplicates: 1 is that of equal images, 0 that of unrelated neighbours.
    `auto` finds it from the similarities of all images to their nearest."""
