"""The formulas of merge methods other than linear, each on one parameter in float32.

Every function takes `Inputs` and the method's options and gives a new tensor. τ is a task
vector, fine-tuned minus parent weights. How λ and the shares enter is said in each; at
λ = 0 the result is the reward model, for the methods that would prune its own task
vector by definition: `merge.merge_parameter` copies it then.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Vectors this parallel are interpolated linearly: arc and chord differ by less than
# float32 rounds, and the angle itself is lost in rounding.
PARALLEL = 0.9995
KARCHER_STEPS = 50
TINY = 1e-12


@dataclass(frozen=True)
class Inputs:
    """One parameter of every model: float32 tensors of one shape on one device.

    Args:
        rm: the reward model's. lms: one per LM that has a share. parent: the
            pretrained base's, or None where no method needs it.
        shares: one per LM, summing to 1. lam: 0 < lam <= 1.
        name: of the parameter, which random methods draw from.
    """

    rm: Tensor
    lms: Sequence[Tensor]
    shares: Sequence[float]
    lam: float
    parent: Tensor | None = None
    name: str = ""

    @property
    def mix(self) -> Tensor:
        """Σ share·LM."""
        return sum(share * lm for share, lm in zip(self.shares, self.lms))

    @property
    def weights(self) -> list[float]:
        """1 - λ for the reward model, then λ·share for each LM: they sum to 1."""
        return [1 - self.lam, *(self.lam * share for share in self.shares)]

    @property
    def task_vectors(self) -> list[Tensor]:
        """The reward model's, then each LM's."""
        return [model - self.parent for model in (self.rm, *self.lms)]

    def generator(self, index: int, seed: int) -> torch.Generator:
        """Random numbers of their own for each LM and parameter, whatever order they come in.

        On the CPU, so that every device draws the same.
        """
        own = zlib.crc32(f"{seed}/{index}/{self.name}".encode())
        return torch.Generator().manual_seed(own)


Sparsifier = Callable[[Tensor, torch.Generator], Tensor]


def task_arithmetic(x: Inputs) -> Tensor:
    """RM + λ·Σ s·τ_LM. Source: arXiv:2212.04089."""
    return _add(x, lambda delta, _: delta)


def dare_linear(x: Inputs, density: float, seed: int) -> Tensor:
    """RM + λ·Σ s·DARE(τ_LM): entries dropped at random, the rest divided by the density.

    Source: DARE, arXiv:2311.03099.
    """
    return _add(x, lambda delta, random: _drop(delta, density, random), seed)


def della_linear(x: Inputs, density: float, epsilon: float, seed: int) -> Tensor:
    """RM + λ·Σ s·MAGPRUNE(τ_LM), without an election of signs. Source: DELLA, arXiv:2406.11617."""
    return _add(
        x, lambda delta, random: _drop_small(delta, density, epsilon, random), seed
    )


def breadcrumbs(x: Inputs, density: float, gamma: float) -> Tensor:
    """RM + λ·Σ s·τ_LM without its largest and smallest entries. Source: arXiv:2312.06795."""
    return _add(x, lambda delta, _: _band(delta, density, gamma))


def ties(x: Inputs, density: float) -> Tensor:
    """Parent + the weighted mean of the trimmed τ that agree with the elected sign.

    The reward model takes part with weight 1 - λ, each LM with λ·s; all are trimmed.
    Source: TIES, arXiv:2306.01708, with weights.
    """
    return _elect(x, lambda delta, _: _trim(delta, density))


def dare_ties(x: Inputs, density: float, seed: int) -> Tensor:
    """TIES with DARE's random drop instead of trimming. Source: arXiv:2311.03099."""
    return _elect(x, lambda delta, random: _drop(delta, density, random), seed)


def della(x: Inputs, density: float, epsilon: float, seed: int) -> Tensor:
    """TIES with MAGPRUNE instead of trimming. Source: arXiv:2406.11617."""
    return _elect(
        x, lambda delta, random: _drop_small(delta, density, epsilon, random), seed
    )


def breadcrumbs_ties(x: Inputs, density: float, gamma: float) -> Tensor:
    """TIES with the Breadcrumbs mask instead of trimming. Source: arXiv:2312.06795."""
    return _elect(x, lambda delta, _: _band(delta, density, gamma))


def sce(x: Inputs, density: float) -> Tensor:
    """(1-λ)·RM + λ·SCE: select by variance, weigh by energy, erase minority signs.

    SCE merges the τ of reward model and LMs: of the entries that differ at all the
    `density` of largest variance stay; a model weighs by the mean of its τ² (an LM's
    times its share over the equal one); entries against the weighed sign of the sum
    are left out of the mean. Source: FuseChat 3.0's method, arXiv:2408.07990.
    """
    deltas = torch.stack(x.task_vectors)
    if density < 1:
        variance = deltas.var(0, unbiased=False).flatten()
        count = int(density * variance.count_nonzero())
        keep = torch.zeros_like(variance)
        keep[variance.topk(count).indices] = 1
        deltas = deltas * keep.view(deltas.shape[1:])
    energy = deltas.square().flatten(1).mean(1)
    relative = [1.0, *(share * len(x.shares) for share in x.shares)]
    weights = energy * energy.new_tensor(relative)
    total = weights.sum()
    weights = (
        weights / total if total > TINY else torch.full_like(weights, 1 / len(weights))
    )
    agrees = deltas.sign() == _sign(deltas.sum(0))
    return torch.lerp(x.rm, x.parent + _mean_where(deltas, weights, agrees), x.lam)


def model_stock(x: Inputs) -> Tensor:
    """(1-λ)·RM + λ·(t·mean + (1-t)·parent), t from the angle between the τ.

    t = N·cos / (1 + (N-1)·cos) over the N models, cos the mean over pairs, taken as 0
    when negative; in the mean an LM counts its share over the equal one.
    Source: Model Stock, arXiv:2403.19522.
    """
    deltas = [delta.flatten() for delta in x.task_vectors]
    count = len(deltas)
    cosines = [
        _cosine(deltas[i], deltas[j]) for i in range(count) for j in range(i + 1, count)
    ]
    cos = max(0.0, sum(cosines) / len(cosines))
    t = count * cos / (1 + (count - 1) * cos)
    mean = (x.rm + len(x.lms) * x.mix) / count
    return torch.lerp(x.rm, torch.lerp(x.parent, mean, t), x.lam)


def slerp(x: Inputs) -> Tensor:
    """The point at λ of the arc from RM to Σ s·LM, each parameter as one vector.

    Source: K. Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.
    """
    return _arc(x.rm.flatten(), x.mix.flatten(), x.lam).view_as(x.rm)


def nuslerp(x: Inputs, rows: int) -> Tensor:
    """Parent + the point at λ of the arc from τ_RM to Σ s·τ_LM; row by row if `rows` is 1.

    Source: NuSLERP as mergekit documents it, with task vectors.
    """
    start, end = x.rm - x.parent, x.mix - x.parent
    if rows and start.ndim > 1:
        arcs = _arc(start.flatten(1), end.flatten(1), x.lam)
    else:
        arcs = _arc(start.flatten(), end.flatten(), x.lam)
    return x.parent + arcs.view_as(x.rm)


def multislerp(x: Inputs) -> Tensor:
    """Barycentre on the sphere with weights 1-λ and λ·s, in the tangent plane at the mean.

    Directions are averaged on the unit sphere, lengths as numbers.
    Source: C. Goddard, multi-SLERP, as mergekit documents it.
    """
    units, lengths, weights = _on_the_sphere(x)
    mean = weights @ units
    if mean.norm() < 1e-6:  # directions that cancel have no mean direction
        return torch.lerp(x.rm, x.mix, x.lam)
    mean = mean / mean.norm()
    tangents = units - (units @ mean)[:, None] * mean
    return (lengths * _exp(mean, weights @ tangents)).view_as(x.rm)


def karcher(x: Inputs) -> Tensor:
    """The point of the sphere with the least weighted sum of squared arcs to all directions.

    Weights 1-λ and λ·s; lengths are averaged as numbers. The point is a combination of
    the directions, so all but the last step needs only their inner products.
    Source: H. Karcher, Riemannian center of mass, 1977; iteration by log and exp maps.
    """
    units, lengths, weights = _on_the_sphere(x)
    gram = (units @ units.T).double().cpu()
    weights = weights.double().cpu()

    def norm(part: Tensor) -> Tensor:
        return (part @ gram @ part).clamp(min=0).sqrt()

    if norm(weights) < 1e-6:
        return torch.lerp(x.rm, x.mix, x.lam)
    point = weights / norm(weights)  # as parts of the directions, like all below
    for _ in range(KARCHER_STEPS):
        cosines = (gram @ point).clamp(-1, 1)
        angles = cosines.acos()
        stretch = torch.where(angles < 1e-4, 1.0, angles / angles.sin().clamp(min=1e-6))
        pull = weights * stretch
        step = pull - (pull @ cosines) * point
        length = norm(step)
        if length < 1e-7:
            break
        point = point * length.cos() + step * (length.sin() / length)
        point = point / norm(point)
    return (lengths * (point.to(units) @ units)).view_as(x.rm)


def nearswap(x: Inputs, t: float) -> Tensor:
    """RM + λ·w·(Σ s·LM - RM), w = min(1, t / |difference|): near entries move, far ones hardly.

    Source: NearSwap by alchemonaut, as mergekit documents it.
    """
    difference = x.mix - x.rm
    return x.rm + x.lam * difference * (t / difference.abs().clamp(min=TINY)).clamp(
        max=1
    )


def arcee_fusion(x: Inputs) -> Tensor:
    """RM + λ·(Σ s·LM - RM) where it matters: importance at least median + 1.5·interquartile range.

    The importance of an entry is |difference| times the divergence KL(softmax LM, softmax
    RM) of its row. Source: Arcee Fusion, as mergekit documents it; quantiles are exact here.
    """
    mix = x.mix
    ours, theirs = (torch.log_softmax(t, -1) for t in (x.rm, mix))
    divergence = (theirs.exp() * (theirs - ours)).sum(-1, keepdim=True)
    difference = mix - x.rm
    importance = difference.abs() * divergence
    low, middle, high = (_quantile(importance, q) for q in (0.25, 0.5, 0.75))
    return x.rm + x.lam * difference * (importance >= middle + 1.5 * (high - low))


def _add(x: Inputs, sparse: Sparsifier, seed: int = 0) -> Tensor:
    """RM + λ·Σ s·sparse(τ): the reward model's own task vector stays whole."""
    result = x.rm.clone()
    for index, (share, delta) in enumerate(zip(x.shares, x.task_vectors[1:])):
        result.add_(sparse(delta, x.generator(index, seed)), alpha=x.lam * share)
    return result


def _elect(x: Inputs, sparse: Sparsifier, seed: int = 0) -> Tensor:
    """Parent + the mean of the sparse τ, reward model's included, that agree in sign."""
    deltas = torch.stack(
        [
            sparse(delta, x.generator(index - 1, seed))
            for index, delta in enumerate(x.task_vectors)
        ]
    )
    weights = deltas.new_tensor(x.weights)
    weighed = deltas * _column(weights, deltas)
    agrees = deltas.sign() == _sign(weighed.sum(0))
    return x.parent + _mean_where(deltas, weights, agrees)


def _mean_where(deltas: Tensor, weights: Tensor, where: Tensor) -> Tensor:
    """Weighted mean over the models that count at each entry; 0 where none does."""
    weights = _column(weights, deltas) * where
    total = weights.sum(0)
    return (deltas * weights).sum(0) / torch.where(total > 0, total, 1.0)


def _column(weights: Tensor, deltas: Tensor) -> Tensor:
    return weights.view(-1, *[1] * (deltas.ndim - 1))


def _sign(total: Tensor) -> Tensor:
    """+1 or -1; a sum of exactly 0 counts as positive."""
    return torch.where(total >= 0, 1.0, -1.0)


def _trim(delta: Tensor, density: float) -> Tensor:
    """Only the `density` of entries that are largest in size; at least one."""
    if density >= 1:
        return delta
    sizes = delta.abs().flatten()
    count = max(1, int(density * sizes.numel()))
    mask = torch.zeros_like(sizes)
    mask[sizes.topk(count).indices] = 1
    return delta * mask.view_as(delta)


def _band(delta: Tensor, density: float, gamma: float) -> Tensor:
    """Without the `gamma` largest entries, and without the smallest, so that `density` stay."""
    if density >= 1:
        return delta
    sizes = delta.abs().flatten()
    count = max(1, int(density * sizes.numel()))
    largest = min(int(gamma * sizes.numel()), sizes.numel() - count)
    order = sizes.argsort(descending=True)
    mask = torch.zeros_like(sizes)
    mask[order[largest : largest + count]] = 1
    return delta * mask.view_as(delta)


def _drop(delta: Tensor, density: float, random: torch.Generator) -> Tensor:
    """Each entry kept with probability `density`, and divided by it."""
    if density >= 1:
        return delta
    kept = torch.rand(delta.shape, generator=random) < density
    return delta * kept.to(delta.device) / density


def _drop_small(
    delta: Tensor, density: float, epsilon: float, random: torch.Generator
) -> Tensor:
    """Kept with a probability that rises with the rank of size in the row, and divided by it.

    From density - epsilon for the smallest entry to density + epsilon for the largest.
    """
    if density >= 1:
        return delta
    rows = delta.reshape(1, -1) if delta.ndim < 2 else delta.flatten(1)
    ranks = rows.abs().argsort(1).argsort(1).float()
    chance = density - epsilon + 2 * epsilon * ranks / max(1, rows.shape[1] - 1)
    kept = torch.rand(rows.shape, generator=random).to(rows.device) < chance
    return (rows * kept / chance).view_as(delta)


def _arc(start: Tensor, end: Tensor, t: float) -> Tensor:
    """Spherical interpolation along the last dimension; linear for near parallel vectors."""
    lengths = start.norm(dim=-1, keepdim=True) * end.norm(dim=-1, keepdim=True)
    cos = (start * end).sum(-1, keepdim=True) / lengths.clamp(min=TINY)
    angle = cos.clamp(-1, 1).acos()
    sine = angle.sin()
    straight = (cos.abs() > PARALLEL) | (lengths < TINY)
    sine = torch.where(straight, 1.0, sine)
    arc = (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / sine
    return torch.where(straight, torch.lerp(start, end, t), arc)


def _on_the_sphere(x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """(M, n) unit vectors of reward model and LMs, their mean length, (M,) weights."""
    vectors = torch.stack([model.flatten() for model in (x.rm, *x.lms)])
    weights = vectors.new_tensor(x.weights)
    norms = vectors.norm(dim=1)
    return vectors / norms.clamp(min=TINY)[:, None], weights @ norms, weights


def _exp(point: Tensor, tangent: Tensor) -> Tensor:
    """Where one arrives going from a point of the unit sphere along a tangent vector."""
    length = tangent.norm()
    if length < TINY:
        return point
    return point * length.cos() + tangent * (length.sin() / length)


def _cosine(a: Tensor, b: Tensor) -> float:
    lengths = (a.norm() * b.norm()).item()
    return (a @ b).item() / lengths if lengths > TINY else 0.0


def _quantile(values: Tensor, q: float) -> Tensor:
    """The entry at that fraction of the sorted values, rounded down."""
    flat = values.flatten()
    return flat.kthvalue(1 + math.floor(q * (flat.numel() - 1))).values
