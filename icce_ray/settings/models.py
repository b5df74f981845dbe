"""The settings of a run, of a prediction and of a plan: the stages' and what is beside them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from icce_ray.core import recipe as core
from icce_ray.settings.stages import (
    ClassifierSettings,
    Clusters,
    ConsensusSettings,
    EmbedSettings,
    Frozen,
    HeadsSettings,
    InspectSettings,
    ListSettings,
    Location,
    Natural,
    NeighborsSettings,
    Seed,
    Workers,
)

Tracker = Literal["tensorboard", "mlflow", "wandb"]


class ResourceSettings(Frozen):
    """What the run may use. Never part of a fingerprint: it changes speed, not results."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` uses GPUs where the cluster has them."""
    embed_actors: Workers | None = None
    """Copies of the backbone; by default one per GPU, else up to 4 that share the CPUs."""
    embed_batch: Natural = Field(default=64, le=65_536)
    """Images per forward pass."""
    neighbor_shards: Workers | None = None
    """Parts that the features are cut into for the search, an actor each; by default as few as the memory of a GPU or a
    node asks for. The other GPUs or nodes hold copies, which share the queries."""
    head_workers: Workers | None = None
    """Processes that train the heads together; by default one per GPU, else one; while nodes are lost fewer."""
    parallelism: core.Parallelism = "heads"
    """How they share the work. `heads`: each trains its share of the heads on the same batches and only w(x, x') is
    exchanged, one float per pair. `data`: each takes its share of every batch; all gradients are exchanged (DDP)."""
    compile: bool | None = None
    """Whether torch.compile fuses the training step; by default on CUDA only."""
    wait_minutes: float = Field(default=15.0, ge=0.0, le=1_000_000)
    """How long to wait for an autoscaling cluster to bring the GPUs that `device: cuda` asks for, or lost ones back."""


def _listed(value: Any) -> Any:
    """One name in the place of a list of names, and `none` for an empty one."""
    return () if value in ("none", None) else (value,) if isinstance(value, str) else value


class TrackingSettings(Frozen):
    """Where the figures of a run are logged while it works. Never part of a fingerprint: it changes no result.

    The file metrics.jsonl of the run has all of them in any case.
    """

    to: Annotated[tuple[Tracker, ...], BeforeValidator(_listed)] = ("tensorboard",)
    """Any of `tensorboard` (event files in the run), `mlflow` (the server that MLFLOW_TRACKING_URI names) and `wandb`
    (Weights & Biases), which need `pip install icce-ray[mlflow]` and `[wandb]`; or `none`."""
    experiment: str = Field(default="icce", min_length=1)
    """MLflow's experiment, the project of Weights & Biases."""


class Settings(Frozen):
    """Everything a run is defined by."""

    source: Location
    """Images: a folder or prefix, tar or Parquet files, a list of URIs, or features; a local path or a URI."""
    clusters: Clusters
    """Number of classes K, at least 2, or `auto`: found without labels by short trainings with many numbers of
    clusters on a sample of at most 20,000 images, or 50 per cluster; neighbors.cluster_range says where to look."""
    out: Location
    """The run: a local directory or a URI."""
    seed: Seed = 0
    """Of every random number in the run."""
    list: ListSettings = ListSettings()
    embed: EmbedSettings = EmbedSettings()
    neighbors: NeighborsSettings = NeighborsSettings()
    heads: HeadsSettings = HeadsSettings()
    consensus: ConsensusSettings = ConsensusSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    inspect: InspectSettings = InspectSettings()
    resources: ResourceSettings = ResourceSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _workers(self) -> Settings:
        count, heads = self.resources.head_workers, self.heads.heads
        if self.resources.parallelism == "heads" and count is not None and heads is not None and count > heads:
            raise ValueError(
                f"resources.head_workers = {count} is more than heads.heads = {heads}, which they are to share; lower "
                f"it to at most {heads}, or set resources.parallelism=data"
            )
        return self

    @property
    def count_unknown(self) -> bool:
        """Whether the number of clusters is still to be found."""
        return isinstance(self.clusters, str)

    @property
    def fewest_clusters(self) -> int:
        """The number of clusters, or the lowest that it may turn out to be."""
        return self.neighbors.cluster_range[0] if self.count_unknown else self.clusters

    def defining(self) -> dict[str, Any]:
        """What the results depend on, as plain values: not where they go, what they may use, what is tolerated."""
        beside = {"out": True, "resources": True, "tracking": True, "embed": {"reject_budget"}}
        return self.model_dump(mode="json", exclude=beside)


class PredictSettings(Frozen):
    """What a prediction for new images is defined by, beside the run whose classifier labels them."""

    source: Location
    """As of a run; need not be of the run's own format."""
    out: Location
    """For the predictions: a local directory or a URI, not the run's own."""
    list: ListSettings = ListSettings()
    resources: ResourceSettings = ResourceSettings()


class PlanSettings(Settings):
    """Settings of a run to be planned, which need not have images nor a place."""

    source: Location = ""
    out: Location = ""
