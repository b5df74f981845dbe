"""ICCE as a scikit-learn clusterer: the whole method on one feature matrix, in memory, without Ray.

It calls the same functions of `core` as the stages do, in the order of the paper; with the same settings, features and
seed on the same device it finds the same labels.
"""

from __future__ import annotations

import dataclasses
import warnings
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from icce_ray.core.alarms import Alarm, CollapseWarning, cluster_sizes, head_alarms
from icce_ray.core.automatic import Choice, automatic
from icce_ray.core.cluster_count import choose_clusters, in_reach
from icce_ray.core.consensus import METHODS, consensus
from icce_ray.core.linear import GridPoint, LinearClassifier, self_train
from icce_ray.core.neighbors import Limits, default_k_max
from icce_ray.core.parameters import check_parameters, check_sizes, directed_rows
from icce_ray.core.pilot import choose_threshold
from icce_ray.core.projection import Moments, Projection
from icce_ray.core.recipe import CLUSTER_RANGE, HOLDOUT, ClusterPrior, GridRecipe, InputNorm, Recipe, Teacher
from icce_ray.core.search import mine
from icce_ray.core.training import HeadTrainer
from icce_ray.progress import stage_progress
from icce_ray.search.partition import PARTITIONERS

#: Rows labelled at once: activations of a few heads on 8192 rows are some hundred MB at most.
LABEL_ROWS = 8192


class ICCE(ClusterMixin, BaseEstimator):
    """Clusters feature vectors by training many heads, joining them to a consensus and learning it linearly.

    Only the number of clusters has to be given. What is None follows from the numbers of rows, columns and clusters
    (`icce_ray.core.automatic`), and what is given is kept. Memory holds X once, its principal components, up to `k_max`
    neighbours of 12 bytes and `heads` labels of 4 bytes a row.

    Parameters
    ----------
    n_clusters : int or "auto", default=10
        "auto" finds the number by short trainings with many numbers of clusters (`core.cluster_count`).
    cluster_range : tuple of two int, default=(4, 256)
        Where "auto" looks, at most n_samples / k_min.
    components : int, default=None
        Principal components, of centred columns, that neighbours and heads see; 0 leaves the rows as they are.
    threshold : float or "auto", default=None
        Cosine similarity of neighbours. "auto" finds one by a short training (`core.pilot`).
    k_min, k_max : int, default=None
        Bounds on the number of neighbours; by default `k_max` is n_samples / n_clusters, at least `k_min`.
    heads, hidden, bottleneck, epochs, batch_size, learning_rate, warmup_epochs, weight_decay, student_temperature, \
teacher_temperature, teacher_momentum, marginal_momentum, beta, ce_weight, teacher, sinkhorn_iterations, \
cluster_prior, prior_strength, prior_momentum, input_norm, smoothing_neighbors
        Head training, as in `icce_ray.core.recipe.Recipe`, which has the paper's values.
    consensus_methods : tuple of str
        Candidates for the consensus, of "cspa", "hgpa", "mcla" and "hbgf".
    iterations, l2, agreement_power : default=None
        Steps of the grid of linear classifiers, and how they are regularised (`core.linear.LinearGrid`).
    holdout : float, default=0.1
        Share of rows that choose the classifier and are not trained on.
    random_state : int, RandomState or None
    device : str or None
        A torch device; None is "cuda" where there is one, else "cpu".
    verbose : int, default=0
        Show progress on standard error.

    Attributes
    ----------
    n_clusters_, n_clusters_interval_ : int and tuple of two, the number given or found, and those nearly as clear.
    labels_ : int32[n_samples], the consensus. Clusters that no row is in are left out and the others renumbered.
    agreement_ : float32[n_samples], share of heads that agree with the label.
    threshold_ : float, the threshold given or found.
    choice_ : Choice, every value that was given or chosen.
    head_labels_ : int32[n_samples, heads]
    head_losses_ : float32[heads], mean TEMI loss of the last epoch.
    best_head_ : int, the head of the lowest loss.
    consensus_scores_ : dict, average normalised mutual information with the heads of each method that could run.
    classifier_grid_ : list of GridPoint, accuracy on held-out consensus labels of each learning rate.
    coef_, intercept_ : float32[n_classes, n_features] and float32[n_classes] of the best of them.
    classes_ : int[n_classes], the labels that are columns of `predict_proba`.
    n_features_in_, feature_names_in_ : as everywhere in scikit-learn.
    """

    n_clusters_: int
    n_clusters_interval_: tuple[int, int]
    labels_: NDArray[np.int32]
    agreement_: NDArray[np.float32]
    threshold_: float
    choice_: Choice
    head_labels_: NDArray[np.int32]
    head_losses_: NDArray[np.float32]
    best_head_: int
    consensus_scores_: dict[str, float]
    classifier_grid_: list[GridPoint]
    coef_: NDArray[np.float32]
    intercept_: NDArray[np.float32]
    classes_: NDArray[np.int_]

    def __init__(
        self,
        n_clusters: int | Literal["auto"] = 10,
        *,
        cluster_range: tuple[int, int] = CLUSTER_RANGE,
        components: int | None = None,
        threshold: float | Literal["auto"] | None = None,
        k_min: int | None = None,
        k_max: int | None = None,
        heads: int | None = None,
        hidden: int | None = None,
        bottleneck: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        warmup_epochs: int | None = None,
        weight_decay: float = Recipe.weight_decay,
        student_temperature: float = Recipe.student_temperature,
        teacher_temperature: float = Recipe.teacher_temperature,
        teacher_momentum: float | None = None,
        marginal_momentum: float = Recipe.marginal_momentum,
        beta: float = Recipe.beta,
        ce_weight: float = Recipe.ce_weight,
        teacher: Teacher = Recipe.teacher,
        sinkhorn_iterations: int = Recipe.sinkhorn_iterations,
        cluster_prior: ClusterPrior = Recipe.cluster_prior,
        prior_strength: float | None = None,
        prior_momentum: float = Recipe.prior_momentum,
        input_norm: InputNorm = Recipe.input_norm,
        smoothing_neighbors: int = Recipe.smoothing_neighbors,
        consensus_methods: tuple[str, ...] = METHODS,
        iterations: int | None = None,
        l2: float | None = None,
        agreement_power: float | None = None,
        holdout: float = HOLDOUT,
        random_state: int | np.random.RandomState | None = None,
        device: str | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.cluster_range = cluster_range
        self.components = components
        self.threshold = threshold
        self.k_min = k_min
        self.k_max = k_max
        self.heads = heads
        self.hidden = hidden
        self.bottleneck = bottleneck
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.warmup_epochs = warmup_epochs
        self.weight_decay = weight_decay
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.teacher_momentum = teacher_momentum
        self.marginal_momentum = marginal_momentum
        self.beta = beta
        self.ce_weight = ce_weight
        self.teacher = teacher
        self.sinkhorn_iterations = sinkhorn_iterations
        self.cluster_prior = cluster_prior
        self.prior_strength = prior_strength
        self.prior_momentum = prior_momentum
        self.input_norm = input_norm
        self.smoothing_neighbors = smoothing_neighbors
        self.consensus_methods = consensus_methods
        self.iterations = iterations
        self.l2 = l2
        self.agreement_power = agreement_power
        self.holdout = holdout
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    # -- scikit-learn's methods --------------------------------------------------------------------------------

    def fit(self, X: ArrayLike, y: Any = None) -> ICCE:
        """Cluster the rows of X [n_samples, n_features]; y is ignored.

        Rows of zeros have no direction and so no neighbours; they do not train the heads but are labelled by them.
        Raises ValueError on a parameter out of range, on X that is not a finite matrix of at least 2 and `n_clusters`
        rows, on one with fewer than 2 rows that are not zero, and on training that diverged.
        """
        check_parameters(self.get_params(deep=False))
        matrix = self._validated(X, dtype=(np.float32, np.float16), ensure_min_samples=2)
        check_sizes(len(matrix), self.n_clusters, self.k_min)
        seed = self._seed()
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        features = torch.from_numpy(np.require(matrix, requirements=["C", "W"])).to(device)
        self._fit_heads(features, seed)
        self._fit_consensus(seed)
        self._fit_classifier(features, seed)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.int32]:
        """Label of each row of X by the linear classifier, int32[n_samples].

        On the rows of `fit` it is the classifier's opinion, which may differ from the consensus in `labels_`.
        """
        return self.predict_proba(X).argmax(axis=1).astype(np.int32)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each label, in the order of `classes_`, float64[n_samples, n_classes]."""
        check_is_fitted(self)
        matrix = self._validated(X, dtype=(np.float64, np.float32, np.float16), reset=False)
        # In float64 a row's probabilities hardly depend on the rows beside it.
        classifier = LinearClassifier(torch.from_numpy(self.coef_).double(), torch.from_numpy(self.intercept_).double())
        blocks = torch.tensor(matrix).split(LABEL_ROWS)
        return np.concatenate([classifier.probabilities(rows).numpy() for rows in blocks])

    # -- the method, in the order of the paper -------------------------------------------------------------------

    def _fit_heads(self, features: Tensor, seed: int) -> None:
        """Neighbours (paper 3.1), the heads on them, and the label of every row under every head."""
        directed = directed_rows(features)
        # A zero row has no direction, hence no neighbours: it trains nothing and is labelled like a new row.
        rows = features if directed.all() else features[directed]
        with self._progress("neighbors") as progress:
            seen, inputs = self._inputs(rows, features)
            self.n_clusters_ = self._count(seen, seed)
            self.choice_ = self._choose(self.n_clusters_)
            progress.log(self.choice_.describe())
            limits = self._limits(seen, seed)
            self.threshold_ = limits.threshold
            neighbors = mine(seen, limits)
        recipe = self._recipe(self.choice_)
        trainer = HeadTrainer(seen, neighbors, n_clusters=self.n_clusters_, recipe=recipe, seed=seed)
        losses: list[Tensor] = []
        with self._progress("heads") as progress:
            progress.begin(recipe.epochs, unit="epochs")
            for epoch in range(recipe.epochs):
                losses.append(trainer.run_epoch().temi)
                if self.verbose:  # reading the loss makes the device wait
                    progress.update(epoch + 1, mean_loss=float(losses[-1].mean()))
        history = torch.stack(losses).cpu().numpy()
        self.head_losses_ = history[-1]
        if not np.isfinite(self.head_losses_).all():
            raise ValueError(f"the heads diverged at learning_rate={recipe.learning_rate:g}; lower it")
        self.best_head_ = int(self.head_losses_.argmin())
        blocks = [trainer.labels(block).cpu().numpy() for block in inputs.split(LABEL_ROWS)]
        self.head_labels_ = np.ascontiguousarray(np.concatenate(blocks))
        _warn(head_alarms(history, cluster_sizes(self.head_labels_, self.n_clusters_)))

    def _inputs(self, rows: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """What neighbours and heads see of `rows`, which have directions, and of all `features`."""
        moments = Moments.of(rows)
        self._facts = {"n_images": len(rows), "dim": rows.shape[1], "mean_cosine": moments.mean_cosine}
        if not (components := self._choose(1).components):  # which do not depend on the clusters
            return rows, features
        projection = Projection.of(moments, components)
        inputs = projection.apply(features)
        return (inputs if rows is features else projection.apply(rows)), inputs

    def _choose(self, n_clusters: int) -> Choice:
        """Every value that was not given, for so many clusters."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(Choice)}
        return automatic(n_clusters=n_clusters, given=given | {"k_max": self.k_max}, **self._facts)

    def _count(self, inputs: Tensor, seed: int) -> int:
        """The number of clusters given, or what pilot trainings on some rows find."""
        if self.n_clusters != "auto":
            self.n_clusters_interval_ = (int(self.n_clusters), int(self.n_clusters))
            return int(self.n_clusters)
        choice = self._choose(self.cluster_range[0])
        low, high = in_reach(len(inputs), choice.k_min, *self.cluster_range)
        recipe = self._recipe(choice)
        found = choose_clusters(inputs, low=low, high=high, k_min=choice.k_min, recipe=recipe, seed=seed)
        self.n_clusters_interval_ = found.interval
        return found.clusters

    def _limits(self, inputs: Tensor, seed: int) -> Limits:
        """Those of the neighbours; their threshold is given or chosen, or what a pilot training on some rows finds."""
        k_min = self.choice_.k_min
        k_max = self.k_max or default_k_max(len(inputs), self.n_clusters_, k_min)
        if self.threshold != "auto":
            return Limits(self.choice_.threshold, k_min, k_max)
        evidence = choose_threshold(
            inputs,
            n_clusters=self.n_clusters_,
            widest=Limits(-1.0, k_min, k_max),
            recipe=self._recipe(self.choice_),
            seed=seed,
            partitioners=PARTITIONERS,
        )
        return Limits(evidence.threshold, k_min, k_max)

    def _recipe(self, choice: Choice) -> Recipe:
        chosen = self.get_params(deep=False) | dataclasses.asdict(choice)
        return Recipe(**{field.name: chosen[field.name] for field in dataclasses.fields(Recipe)})

    def _fit_consensus(self, seed: int) -> None:
        """One labelling from those of all heads (paper 3.2)."""
        if self.n_clusters_ == 1:
            n_rows, self.consensus_scores_ = len(self.head_labels_), {}
            self.labels_, self.agreement_ = np.zeros(n_rows, np.int32), np.ones(n_rows, np.float32)
        else:
            with self._progress("consensus"):
                methods = self.consensus_methods
                result = consensus(self.head_labels_, self.n_clusters_, PARTITIONERS, methods=methods, seed=seed)
            self.labels_ = np.unique(result.label, return_inverse=True)[1].astype(np.int32)
            self.agreement_, self.consensus_scores_ = result.agreement, result.scores
            _warn(result.alarms)
        self.classes_ = np.arange(self.labels_.max() + 1)

    def _fit_classifier(self, features: Tensor, seed: int) -> None:
        """Linear classifiers of the consensus; the one that predicts held-out rows best is kept (paper 3.3)."""
        labels = torch.from_numpy(self.labels_).to(features.device)
        with self._progress("classifier") as progress:
            own = {name: getattr(self.choice_, name) for name in ("iterations", "l2", "agreement_power")}
            recipe = GridRecipe(holdout=self.holdout, **own)
            progress.begin(recipe.iterations, unit="iterations")
            fitted = self_train(
                features,
                labels,
                torch.from_numpy(self.agreement_).to(features.device),
                recipe=recipe,
                seed=seed,
                on_progress=lambda done, _: progress.update(done),
                inputs={"features": [(0, features.shape[1])]},
                n_classes=len(self.classes_),
            )
        self.classifier_grid_, chosen = fitted.points, fitted.classifier
        self.coef_, self.intercept_ = chosen.weight.cpu().numpy(), chosen.bias.cpu().numpy()

    def _seed(self) -> int:
        """An integer is the seed itself, as in the settings of a run; else one is drawn."""
        generator = check_random_state(self.random_state)
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(generator.randint(2**31 - 1))

    def _validated(self, X: Any, **options: Any) -> NDArray[Any]:
        return np.asarray(validate_data(self, X, **options))

    def _progress(self, stage: str) -> Any:
        return stage_progress(stage, verbose=bool(self.verbose))


def _warn(alarms: list[Alarm]) -> None:
    """One CollapseWarning an alarm, as from the line that called `fit`."""
    for alarm in alarms:
        warnings.warn(alarm.text, CollapseWarning, stacklevel=4)
