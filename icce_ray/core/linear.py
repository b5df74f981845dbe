"""Linear classifiers on frozen features, a whole grid in one pass (paper 3.3 and 4.2; DINOv2's linear protocol).

Every combination of an input (which blocks, with or without the patch mean) and a learning rate is a classifier of its
own. All see the same batches; those of one input are one matrix product, and the gradient of the cross-entropy is
written out. What remains are the products themselves, 4 B K (d + 1) operations a step and classifier, so float32 gains
little over training one after another where that runs at the product's rate as well; bfloat16 products gain the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icce_ray.core.heads import derived_seed
from icce_ray.core.recipe import GridRecipe, Precision, product_precision
from icce_ray.core.training import feature_statistics

MOMENTUM = 0.9
#: Bytes of a float32 block of residuals or weights on a CPU: it should stay within its caches.
BLOCK_BYTES = 4 * 2**20
#: Numbers of 16 bits in what a tensor core loads at once: the bias makes an odd width of an even one.
ALIGNMENT = 8
STREAM = 2  # of random numbers; head training has (seed, head) and (seed, 1, epoch)


@dataclass(frozen=True)
class LinearClassifier:
    """`softmax(x @ weight.T + bias)` on raw features: weight float32[K, D], bias float32[K]; scaling is folded in."""

    weight: Tensor
    bias: Tensor

    def probabilities(self, features: Tensor) -> Tensor:
        """Class probabilities of `features` [n, D], [n, K] in the weight's dtype."""
        return torch.addmm(self.bias, features.to(self.weight.dtype), self.weight.T).softmax(-1)


@dataclass(frozen=True)
class GridPoint:
    """One classifier of the grid and how well it predicts the held-out pseudo-labels."""

    input: str
    learning_rate: float
    accuracy: float
    loss: float


class LinearGrid:
    """Classifiers for all inputs and learning rates, trained together by SGD with momentum and a cosine schedule.

    `features` is [N, W], `labels` int64[N] in [0, n_classes), `inputs` names columns of the features as slices, e.g.
    {"cls": [(0, d)], "cls+patch_mean": [(0, 2 * d)]}. Inputs are standardised with the training statistics (ours:
    DINOv2's features come out of a layer norm, other backbones' do not, and the learning rates assume that scale).

    `precision` is that of the two products of a step; softmax, weights, velocities and `score` are float32 always. In
    bfloat16 logits and sums of gradients are rounded to 8 bits, which is below the noise of the batches.

    `agreement` float[N] in [0, 1], not all zero, is how many heads stand for each label: its `recipe.agreement_power`
    weighs the rows, and `recipe.l2 / 2 |weight|^2` is added to the loss (both ours). Labels that heads dispute are
    wrong more often, and a classifier of few images and many dimensions learns them by heart.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        inputs: Mapping[str, Sequence[tuple[int, int]]],
        n_classes: int,
        recipe: GridRecipe = GridRecipe(),  # noqa: B008 - it is frozen
        seed: int = 0,
        precision: Precision = "auto",
        agreement: Tensor | None = None,
    ) -> None:
        """Raises ValueError on labels out of range or a length other than the features'."""
        if len(labels) != len(features):
            raise ValueError(f"{len(labels)} labels for {len(features)} features; they must match")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= n_classes:
            raise ValueError(f"labels span [{low}, {high}], outside [0, {n_classes}); give one label a class")
        device = features.device
        self.features, self.labels, self.n_classes = features, labels.long(), n_classes
        self.iterations, self.seed, self.l2 = recipe.iterations, seed, recipe.l2
        shares = torch.ones(len(features)) if agreement is None else agreement.float() ** recipe.agreement_power
        self.row_weights = (shares / shares.mean()).to(device)
        self.batch_size = min(recipe.batch_size, len(features))
        self.learning_rates, self.inputs = recipe.learning_rates, inputs
        self.columns = {
            name: torch.cat([torch.arange(*part, device=device) for part in parts]) for name, parts in inputs.items()
        }
        self.mean, self.std = feature_statistics(features)
        generator = torch.Generator().manual_seed(derived_seed(seed, STREAM, 0))
        rates = len(self.learning_rates)
        # The bias is one more column of the weight, fed by a constant one: a single product and a single update.
        self.weights = {}
        for name, columns in self.columns.items():
            weight = torch.empty(rates * n_classes, len(columns) + 1).normal_(std=0.01, generator=generator)
            weight[:, -1] = 0.0
            self.weights[name] = weight.to(device)
        self._velocity = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        # Products write into memory that stays: fresh pages cost as much as all that is not a product.
        self.dtype: torch.dtype = getattr(torch, product_precision(precision, device.type))
        self._outputs = torch.empty(self.batch_size, rates * n_classes, dtype=self.dtype, device=device)
        self._copies: dict[str, tuple[Tensor, Tensor]] = {}  # of weights and gradients where they are not float32
        if self.dtype != torch.float32:
            # Of a width that tensor cores read without padding: the columns of zeros add nothing to a product.
            for name, weight in self.weights.items():
                width = math.ceil(weight.shape[1] / ALIGNMENT) * ALIGNMENT
                wide = weight.new_zeros(2, len(weight), width, dtype=self.dtype)
                self._copies[name] = wide[0], wide[1]
        scaled = torch.tensor(self.learning_rates, device=device) * self.batch_size / 256
        self._rate = scaled.repeat_interleave(n_classes)[:, None]

    def fit(self, on_progress: Callable[[int, int], None] | None = None) -> LinearGrid:
        """Run all iterations. `on_progress(done, total)` is called about a hundred times."""
        device = self.features.device
        generator = torch.Generator(device).manual_seed(derived_seed(self.seed, STREAM, 1))
        batches = len(self.features) // self.batch_size
        order = torch.empty(0, dtype=torch.int64, device=device)
        every = max(1, self.iterations // 100)
        for iteration in range(self.iterations):
            if iteration % batches == 0:
                order = torch.randperm(len(self.features), generator=generator, device=device)
            start = iteration % batches * self.batch_size
            schedule = (1.0 + math.cos(math.pi * iteration / self.iterations)) / 2.0
            self._step(order[start : start + self.batch_size], schedule)
            if on_progress and (iteration + 1) % every == 0:
                on_progress(iteration + 1, self.iterations)
        return self

    def _step(self, rows: Tensor, schedule: float) -> None:
        """One SGD step of every classifier on these rows."""
        x_all = self.features.index_select(0, rows).float().sub_(self.mean).div_(self.std).to(self.dtype)
        for name, weight in self.weights.items():
            velocity, width = self._velocity[name], weight.shape[1]
            x = self._input(x_all, name, zeros=-width % ALIGNMENT if name in self._copies else 0)
            if self.dtype == torch.float32:
                residual = self._residual(torch.mm(x, weight.T, out=self._outputs), rows)
                torch.addmm(velocity, residual.T, x, beta=MOMENTUM, alpha=1 / len(rows), out=velocity)
                if self.l2:
                    velocity[:, :-1].add_(weight[:, :-1], alpha=self.l2)
                weight.addcmul_(self._rate, velocity, value=-schedule)
                continue
            copy, gradient = self._copies[name]
            copy[:, :width].copy_(weight)
            residual = self._residual(torch.mm(x, copy.T, out=self._outputs), rows)
            torch.mm(residual.T, x, out=gradient)
            tensors = (weight, velocity, gradient[:, :width], self._rate)
            for part, speed, slope, rate in zip(*(self._blocks(one, width) for one in tensors), strict=True):
                speed.mul_(MOMENTUM).add_(slope, alpha=1 / len(rows))
                speed[:, :-1].add_(part[:, :-1], alpha=self.l2)
                part.addcmul_(rate, speed, value=-schedule)

    def _residual(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Softmax less the one-hot target of the rows, in the place of `logits` [B, R K]: the gradient of the loss.

        In float32, as a probability near one less one has no digits left in bfloat16.
        """
        of_rows = (logits, self.labels[rows], self.row_weights[rows])
        for part, classes, weights in zip(*(self._blocks(tensor, logits.shape[1]) for tensor in of_rows), strict=True):
            p = part.view(len(part), -1, self.n_classes).softmax(-1, dtype=torch.float32)
            p[torch.arange(len(p), device=p.device), :, classes] -= 1.0
            part.copy_(p.mul_(weights[:, None, None]).view_as(part))
        return logits

    @staticmethod
    def _blocks(tensor: Tensor, width: int) -> tuple[Tensor, ...]:
        """Rows in blocks that stay in a CPU's cache at `width` float32 a row; elsewhere all at once."""
        on_cpu = tensor.device.type == "cpu"
        return tensor.split(max(1, BLOCK_BYTES // (4 * width)) if on_cpu else len(tensor))

    def _input(self, x: Tensor, name: str, zeros: int = 0) -> Tensor:
        """Columns of an input, a one for the bias and zeros, [n, d + 1 + zeros], of all standardised columns [n, W]."""
        parts = [x[:, first:last] for first, last in self.inputs[name]]
        return torch.cat([*parts, x.new_ones(len(x), 1), x.new_zeros(len(x), zeros)], dim=1)

    def score(self, features: Tensor, labels: Tensor, block_rows: int = 8192) -> list[GridPoint]:
        """Accuracy and mean cross-entropy of every classifier on held-out rows, in the order of inputs and rates."""
        points = []
        for name, weight in self.weights.items():
            correct = torch.zeros(len(self.learning_rates), dtype=torch.float64, device=features.device)
            loss = torch.zeros_like(correct)
            for x, y in zip(features.split(block_rows), labels.long().split(block_rows), strict=True):
                x_in = self._input((x.float() - self.mean) / self.std, name)
                log_p = (x_in @ weight.T).view(len(x), -1, self.n_classes).log_softmax(-1)
                correct += (log_p.argmax(-1) == y[:, None]).sum(0)
                loss -= log_p.gather(2, y[:, None, None].expand(-1, log_p.shape[1], 1)).double().sum((0, 2))
            rows = zip(
                self.learning_rates, (correct / len(labels)).tolist(), (loss / len(labels)).tolist(), strict=True
            )
            points += [GridPoint(name, rate, accuracy, value) for rate, accuracy, value in rows]
        return points

    def classifier(self, point: GridPoint) -> LinearClassifier:
        """The classifier of one grid point, with the standardisation folded into its weights."""
        index = self.learning_rates.index(point.learning_rate)
        columns = self.columns[point.input]
        weight = self.weights[point.input].view(-1, self.n_classes, len(columns) + 1)[index]
        folded = weight[:, :-1] / self.std[columns]
        return LinearClassifier(folded, weight[:, -1] - folded @ self.mean[columns])


def best_point(points: Sequence[GridPoint]) -> GridPoint:
    """The winner, found without labels: best on the held-out pseudo-labels, ties to the lower loss (ours).

    The paper reports the best setting by true accuracy (4.2), which needs labels.

    Classifiers that diverged (loss not finite) never win. Raises ValueError if all did.
    """
    finite = [point for point in points if math.isfinite(point.loss)]
    if not finite:
        raise ValueError("every classifier of the grid diverged; lower classifier.learning_rates")
    return min(finite, key=lambda point: (-point.accuracy, point.loss))


def holdout_rows(n_rows: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers (train, held out), ascending int64: a seeded uniform `share` is held out, at least one row."""
    n_held = max(1, round(n_rows * share))
    if n_held >= n_rows:
        raise ValueError(f"{n_rows} images leave none to train on after holding out {n_held}; give more images")
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(derived_seed(seed, STREAM, 2)))
    return order[n_held:].sort().values, order[:n_held].sort().values


@dataclass(frozen=True)
class SelfTrained:
    """A grid that was trained, and the classifier that predicts the held-out labels best."""

    points: list[GridPoint]
    winner: GridPoint
    classifier: LinearClassifier
    heldout_images: int


def self_train(
    features: Tensor,
    labels: Tensor,
    agreement: Tensor,
    *,
    recipe: GridRecipe,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
    **grid: Any,
) -> SelfTrained:
    """Train the grid on `labels` int64[N] of `features` [N, W] less those held out, and choose by these (paper 3.3).

    `agreement` float[N] and the options `grid` are those of `LinearGrid`.
    """
    train, held = (rows.to(features.device) for rows in holdout_rows(len(features), recipe.holdout, seed))
    trained = LinearGrid(
        features[train], labels[train], agreement=agreement[train], recipe=recipe, seed=seed, **grid
    ).fit(on_progress)
    points = trained.score(features[held], labels[held])
    winner = best_point(points)
    return SelfTrained(points, winner, trained.classifier(winner), len(held))


def grid_flops(*, batch: int, widths: Sequence[int], rates: int, n_classes: int) -> float:
    """Operations of one iteration of `LinearGrid`: the product and its gradient, for every input."""
    return 4.0 * batch * rates * n_classes * sum(width + 1 for width in widths)
