"""ICCE as a scikit-learn clusterer: the whole method on one feature matrix, in memory, without Ray.

It calls the same functions of `core` as the stages do, in the order of the paper; with the same settings, features and
seed on the same device it finds the same labels.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from icce_ray.core.alarms import Alarm, CollapseWarning, cluster_sizes, head_alarms
from icce_ray.core.automatic import Choice, automatic
from icce_ray.core.cluster_count import choose_clusters, in_reach
from icce_ray.core.consensus import METHODS, consensus
from icce_ray.core.in_memory import LABEL_ROWS, LimitsOf, Seen, spaces_of, train
from icce_ray.core.linear import GridPoint, LinearClassifier, self_train
from icce_ray.core.parameters import check_parameters, check_sizes, check_spaces, matrices_of, named
from icce_ray.core.recipe import CLUSTER_RANGE, HOLDOUT, ClusterPrior, GridRecipe, InputNorm, Recipe, Teacher
from icce_ray.core.search import mine
from icce_ray.core.spaces import heads_of
from icce_ray.progress import stage_progress
from icce_ray.search.partition import PARTITIONERS

Matrices = ArrayLike | Sequence[ArrayLike]


class ICCE(ClusterMixin, BaseEstimator):
    """Clusters feature vectors by training many heads, joining them to a consensus and learning it linearly.

    Only the number of clusters has to be given. What is None follows from the numbers of rows, columns and clusters
    (`icce_ray.core.automatic`), and what is given is kept. Memory holds X once, its principal components, up to `k_max`
    neighbours of 12 bytes and `heads` labels of 4 bytes a row; of several spaces, each in turn and joined.

    X is a matrix or, where the same images have several kinds of features, a list of matrices: `core.spaces` weighs and
    joins them.

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
    best_head_ : int, the head of the lowest loss, of several spaces among those of the joined one.
    consensus_scores_ : dict, average normalised mutual information with the heads of each method that could run.
    classifier_grid_ : list of GridPoint, accuracy on held-out consensus labels of each learning rate.
    coef_, intercept_ : float32[n_classes, n_features] and float32[n_classes] of the best of them.
    classes_ : int[n_classes], the labels that are columns of `predict_proba`.
    space_dims_, space_weights_ : columns and weight of each feature space, tuples; of one (n_features,) and (1.0,).
    head_spaces_ : int32[heads], the number of the space that a head sees; of several, the joined one has the last.
    n_features_in_, feature_names_in_ : as everywhere in scikit-learn; of several spaces the sum, and no names.
    """

    n_clusters_: int
    n_clusters_interval_: tuple[int, int]
    labels_: NDArray[np.int32]
    agreement_: NDArray[np.float32]
    threshold_: float
    choice_: Choice
    n_features_in_: int
    space_dims_: tuple[int, ...]
    space_weights_: tuple[float, ...]
    head_spaces_: NDArray[np.int32]
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

    def fit(self, X: Matrices, y: Any = None) -> ICCE:
        """Cluster the rows of X [n_samples, n_features], or of a list of such matrices; y is ignored.

        Rows of zeros have no direction and so no neighbours; they do not train the heads but are labelled by them.
        Raises ValueError on a parameter out of range, on X that is not a finite matrix of at least 2 and `n_clusters`
        rows, on one with fewer than 2 rows that are not zero, on several of different numbers of rows, and on training
        that diverged.
        """
        check_parameters(self.get_params(deep=False))
        matrices = self._validated(X, dtype=(np.float32, np.float16), ensure_min_samples=2)
        check_sizes(len(matrices[0]), self.n_clusters, self.k_min)
        seed = self._seed()
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        spaces = [torch.from_numpy(np.require(matrix, requirements=["C", "W"])).to(device) for matrix in matrices]
        self._fit_heads(spaces, seed)
        self._fit_consensus(seed)
        self._fit_classifier(spaces[0] if len(spaces) == 1 else torch.cat(spaces, dim=1), seed)
        return self

    def predict(self, X: Matrices) -> NDArray[np.int32]:
        """Label of each row of X by the linear classifier, int32[n_samples].

        On the rows of `fit` it is the classifier's opinion, which may differ from the consensus in `labels_`.
        """
        return self.predict_proba(X).argmax(axis=1).astype(np.int32)

    def predict_proba(self, X: Matrices) -> NDArray[np.float64]:
        """Probability of each label, in the order of `classes_`, float64[n_samples, n_classes]."""
        check_is_fitted(self)
        matrices = self._validated(X, dtype=(np.float64, np.float32, np.float16), reset=False)
        matrix = matrices[0] if len(matrices) == 1 else np.concatenate(matrices, axis=1)
        # In float64 a row's probabilities hardly depend on the rows beside it.
        classifier = LinearClassifier(torch.from_numpy(self.coef_).double(), torch.from_numpy(self.intercept_).double())
        blocks = torch.tensor(matrix).split(LABEL_ROWS)
        return np.concatenate([classifier.probabilities(rows).numpy() for rows in blocks])

    # -- the method, in the order of the paper -------------------------------------------------------------------

    def _fit_heads(self, matrices: list[Tensor], seed: int) -> None:
        """Neighbours (paper 3.1), the heads on them, and the label of every row under every head."""
        known = None if self.n_clusters == "auto" else int(self.n_clusters)
        with self._progress("neighbors") as progress:
            spaces, self.space_weights_ = spaces_of(matrices, self._choose, known, seed)
            self.n_clusters_ = self._count(spaces[-1], seed)
            self.choice_ = self._choose(self.n_clusters_, spaces[-1].facts)
            progress.log(self.choice_.describe())
            counts = heads_of(self.choice_.heads, self.space_weights_)
            recipe, used = self._recipe(self.choice_), []
            limits = LimitsOf(self.choice_, self.n_clusters_, self.k_max, recipe, seed, PARTITIONERS)
            for space, count in zip(spaces, counts, strict=True):
                if count:
                    found = limits.of(space.rows)
                    used.append((space, mine(space.rows, found), count))
                    self.threshold_ = found.threshold
        self.head_spaces_ = np.repeat(np.arange(len(spaces), dtype=np.int32), counts)
        with self._progress("heads") as progress:
            progress.begin(recipe.epochs * len(used), unit="epochs")

            def show(done: int, temi: Tensor) -> None:
                if self.verbose:  # reading the loss makes the device wait
                    progress.update(done, mean_loss=float(temi.mean()))

            self.head_labels_, history = train(
                used, n_clusters=self.n_clusters_, recipe=recipe, seed=seed, on_epoch=show
            )
        self.head_losses_ = history[-1]
        if not np.isfinite(self.head_losses_).all():
            raise ValueError(f"the heads diverged at learning_rate={recipe.learning_rate:g}; lower it")
        # Losses on the neighbours of different spaces do not compare.
        self.best_head_ = int(np.where(self.head_spaces_ == len(spaces) - 1, self.head_losses_, np.inf).argmin())
        _warn(head_alarms(history, cluster_sizes(self.head_labels_, self.n_clusters_)))

    def _choose(self, n_clusters: int, facts: dict[str, Any]) -> Choice:
        """Every value that was not given, for so many clusters of rows of which these are the facts."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(Choice)}
        known = {"k_max": self.k_max, "components": facts.get("components", self.components)}
        facts = {name: value for name, value in facts.items() if name != "components"}
        return automatic(n_clusters=n_clusters, given=given | known, **facts)

    def _count(self, space: Seen, seed: int) -> int:
        """The number of clusters given, or what pilot trainings on some rows find."""
        if self.n_clusters != "auto":
            self.n_clusters_interval_ = (int(self.n_clusters), int(self.n_clusters))
            return int(self.n_clusters)
        inputs, choice = space.rows, self._choose(self.cluster_range[0], space.facts)
        low, high = in_reach(len(inputs), choice.k_min, *self.cluster_range)
        recipe = self._recipe(choice)
        found = choose_clusters(inputs, low=low, high=high, k_min=choice.k_min, recipe=recipe, seed=seed)
        self.n_clusters_interval_ = found.interval
        return found.clusters

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

    def _validated(self, X: Any, *, reset: bool = True, **options: Any) -> list[NDArray[Any]]:
        """The matrix of each space as scikit-learn wants it, all of as many rows."""
        given, fitted = matrices_of(X), None if reset else self.space_dims_
        check_spaces(given, fitted)
        if len(given) == 1:
            found = [np.asarray(validate_data(self, given[0], reset=reset, **options))]
        else:
            found = [check_array(one, input_name=name, **options) for name, one in named(given).items()]
        if reset:
            self.space_dims_ = tuple(one.shape[1] for one in found)
            if len(found) > 1:
                self.n_features_in_ = sum(self.space_dims_)
                vars(self).pop("feature_names_in_", None)
        return found

    def _progress(self, stage: str) -> Any:
        return stage_progress(stage, verbose=bool(self.verbose))


def _warn(alarms: list[Alarm]) -> None:
    """One CollapseWarning an alarm, as from the line that called `fit`."""
    for alarm in alarms:
        warnings.warn(alarm.text, CollapseWarning, stacklevel=4)
