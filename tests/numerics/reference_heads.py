"""Head training written the slow obvious way: one small module a head, a loop over heads, all in float64.

The way public TEMI code is laid out. It shares nothing with `icce_ray.core` but the formulas of the paper.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class Head(nn.Module):
    """Linear - GELU - Linear - L2 normalise - weight-normalised Linear of fixed scale, no bias."""

    def __init__(self, parameters):
        super().__init__()
        weights = {name: tensor.double() for name, tensor in parameters.items()}
        hidden, dim = weights["hidden.weight"].shape
        clusters, bottleneck = weights["prototypes"].shape
        self.hidden = nn.Linear(dim, hidden, dtype=torch.float64)
        self.bottleneck = nn.Linear(hidden, bottleneck, dtype=torch.float64)
        last = nn.Linear(bottleneck, clusters, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.hidden.weight.copy_(weights["hidden.weight"])
            self.hidden.bias.copy_(weights["hidden.bias"])
            self.bottleneck.weight.copy_(weights["bottleneck.weight"])
            self.bottleneck.bias.copy_(weights["bottleneck.bias"])
            last.weight.copy_(weights["prototypes"])
        self.last = weight_norm(last)
        scale = self.last.parametrizations.weight.original0
        scale.data.fill_(1.0)
        scale.requires_grad_(False)

    def forward(self, x):
        x = self.bottleneck(F.gelu(self.hidden(x)))
        return self.last(F.normalize(x, dim=-1))

    def named(self):
        """The trained parameters under the names of the batched heads."""
        return {
            "hidden.weight": self.hidden.weight,
            "hidden.bias": self.hidden.bias,
            "bottleneck.weight": self.bottleneck.weight,
            "bottleneck.bias": self.bottleneck.bias,
            "prototypes": self.last.parametrizations.weight.original1,
        }


def sinkhorn(scores, iterations):
    """Columns, then rows, of exp(scores) [rows, K]."""
    q = torch.exp(scores - scores.max())
    for _ in range(iterations):
        q = q / q.sum(0)
        q = q / q.sum(1)[:, None]
    return q


def relaxed_sinkhorn(scores, prior, strength, iterations):
    """Rows of exp(scores) [rows, K]; then columns by the power of what they lack, from the rows as they came."""
    q = torch.exp(scores - scores.max(1, keepdim=True).values)
    q = q / q.sum(1)[:, None]
    row = torch.ones(len(q), dtype=q.dtype)
    for _ in range(iterations):
        column = (prior / (q * row[:, None]).mean(0)) ** strength
        row = 1 / (q * column).sum(1)
    return q * row[:, None] * column


class ReferenceTrainer:
    """What `HeadTrainer.step` must do, head by head."""

    def __init__(self, features, stacked, recipe, *, n_clusters, total_steps, learning_rate):
        self.features, self.recipe, self.total_steps = features.double(), recipe, total_steps
        self.students = [Head({name: t[h] for name, t in stacked.items()}) for h in range(recipe.heads)]
        self.teachers = [copy.deepcopy(student).requires_grad_(False) for student in self.students]
        self.marginals = [torch.full((n_clusters,), 1 / n_clusters, dtype=torch.float64) for _ in self.students]
        self.priors = [marginal.clone() for marginal in self.marginals]
        self.learning_rate = learning_rate
        self.optimizers = [
            torch.optim.AdamW(student.named().values(), lr=0.0, weight_decay=recipe.weight_decay, foreach=False)
            for student in self.students
        ]
        self.gradients = []

    def inputs(self, rows):
        x = self.features[rows]
        source = x if self.recipe.input_norm == "batchnorm" else self.features
        return (x - source.mean(0)) / torch.sqrt(source.var(0, correction=0) + 1e-5)

    def teach(self, head, x):
        logits = self.teachers[head](x) / self.recipe.teacher_temperature
        if self.recipe.unbalanced:
            floor = torch.clamp(self.priors[head], min=0.1 / logits.shape[1])
            p = relaxed_sinkhorn(
                logits, floor / floor.sum(), self.recipe.prior_strength, self.recipe.sinkhorn_iterations
            )
            if self.recipe.cluster_prior == "estimated":
                keep = self.recipe.prior_momentum
                self.priors[head] = keep * self.priors[head] + (1 - keep) * logits.softmax(-1).mean(0)
            return p
        if self.recipe.teacher == "sinkhorn":
            return sinkhorn(logits, self.recipe.sinkhorn_iterations)
        return logits.softmax(-1)

    def step(self, anchors, partners, step):
        """TEMI and CE loss of each head, float64[H]; leaves the gradients of the step in `self.gradients`."""
        recipe, n = self.recipe, len(anchors)
        x = self.inputs(torch.cat([anchors, *partners]))
        targets = []
        for h in range(recipe.heads):
            p = self.teach(h, x)
            keep = recipe.marginal_momentum
            self.marginals[h] = keep * self.marginals[h] + (1 - keep) * p.mean(0)
            views = p.split(n)
            targets.append((views[0], sum(views[1:]) / (len(views) - 1)))
        weight = sum((t_x * t_n).sum(1) for t_x, t_n in targets) / recipe.heads

        temi, cross_entropy, self.gradients = [], [], []
        ramp = recipe.ce_weight * (1 - math.cos(math.pi * step / self.total_steps)) / 2
        for h, (t_x, t_n) in enumerate(targets):
            p_x, p_n = (self.students[h](x[: 2 * n]) / recipe.student_temperature).softmax(-1).split(n)
            one = torch.log(((p_x * t_n) ** recipe.beta / self.marginals[h]).sum(1))
            other = torch.log(((p_n * t_x) ** recipe.beta / self.marginals[h]).sum(1))
            temi.append((-0.5 * weight * (one + other)).mean())
            ce = 0.5 * (F.nll_loss(p_x.log(), t_n.argmax(1)) + F.nll_loss(p_n.log(), t_x.argmax(1)))
            cross_entropy.append(ce if recipe.ce_weight else 0 * ce)
        (sum(temi) / recipe.heads + ramp * sum(cross_entropy) / recipe.heads).backward()

        for student, teacher, optimizer in zip(self.students, self.teachers, self.optimizers, strict=True):
            self.gradients.append({name: p.grad.clone() for name, p in student.named().items()})
            optimizer.param_groups[0]["lr"] = self.learning_rate(step)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for slow, fast in zip(teacher.named().values(), student.named().values(), strict=True):
                    slow.copy_(recipe.teacher_momentum * slow + (1 - recipe.teacher_momentum) * fast)
        return torch.stack(temi).detach(), torch.stack(cross_entropy).detach()
