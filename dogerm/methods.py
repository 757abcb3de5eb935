"""The merge methods other than linear, each on one parameter.

Every function takes `Inputs` and the method's options and gives the merged parameter. τ is
a task vector, fine-tuned minus parent weights. How λ and the shares enter is said in each;
at λ = 0 the result is the reward model, for the methods that would prune its own task
vector by definition: `merge.merge_parameter` copies it then.

A formula works on blocks that stay in the cache: what needs only an entry (or a row) is one
pass that reads every source and writes the result, and a number of the whole parameter (an
angle, a rank) is a pass, or two, of its own before. Nothing as large as the parameter is held.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

# Entries merged at a time: some dozen buffers of that many float32 stay in a core's cache.
BLOCK = 1 << 16
CUDA_BLOCK = 1 << 24
# Vectors this parallel are interpolated linearly: arc and chord differ by less than
# float32 rounds, and the angle itself is lost in rounding.
PARALLEL = 0.9995
KARCHER_STEPS = 50
TINY = 1e-12
LOW_BITS = 16  # of a float32: what ranks are counted by second, after the upper ones


class Inputs:
    """One parameter of every model, or a block of it: tensors of one shape on one device.

    Args:
        rm: the reward model's. lms: one per LM that has a share. parent: the
            pretrained base's, or None where no method needs it.
        shares: one per LM, summing to 1. lam: 0 < lam <= 1.
        name: of the parameter, which random methods draw from.
        out: where `write` puts the result; None: into a new float32 tensor.

    Attributes:
        rm, lms, parent: as given, in float32.
    """

    def __init__(
        self,
        rm: Tensor,
        lms: Sequence[Tensor],
        shares: Sequence[float],
        lam: float,
        parent: Tensor | None = None,
        name: str = "",
        out: Tensor | None = None,
    ):
        self._given, self._parent, self._out = [rm, *lms], parent, out
        self.shares, self.lam, self.name = shares, lam, name
        self._random: dict[tuple[int, int], torch.Generator] = {}

    @cached_property
    def rm(self) -> Tensor:
        return self._given[0].float()

    @cached_property
    def lms(self) -> list[Tensor]:
        return [lm.float() for lm in self._given[1:]]

    @cached_property
    def parent(self) -> Tensor | None:
        return None if self._parent is None else self._parent.float()

    @cached_property
    def mix(self) -> Tensor:
        """Σ share·LM."""
        return _sum(self.shares, self.lms)

    @property
    def weights(self) -> list[float]:
        """1 - λ for the reward model, then λ·share for each LM: they sum to 1."""
        return [1 - self.lam, *(self.lam * share for share in self.shares)]

    @property
    def task_vectors(self) -> list[Tensor]:
        """The reward model's, then each LM's."""
        return [model - self.parent for model in (self.rm, *self.lms)]

    @property
    def size(self) -> int:
        """Number of entries."""
        return self._given[0].numel()

    def generator(self, index: int, seed: int) -> torch.Generator:
        """Random numbers of their own for each LM and parameter, whatever order they come in.

        On the CPU, so that every device draws the same; blocks go on where the last one was.
        """
        if (index, seed) not in self._random:
            own = zlib.crc32(f"{seed}/{index}/{self.name}".encode())
            self._random[index, seed] = torch.Generator().manual_seed(own)
        return self._random[index, seed]

    def blocks(self, rows: bool = False) -> Iterator[Inputs]:
        """The parameter in parts, in order: flat ones, or of whole rows."""
        rm = self._given[0]
        most = CUDA_BLOCK if rm.is_cuda else BLOCK
        if rows:
            width = rm[0].numel() if rm.ndim > 1 else rm.numel()
            most = max(1, most // width) if rm.ndim > 1 else width
        given = [*self._given, self._parent, self._out]
        parts = [
            None if t is None else (t if rows else t.reshape(-1)).split(most)
            for t in given
        ]
        for index in range(len(parts[0])):
            *models, parent, out = (own and own[index] for own in parts)
            block = Inputs(
                models[0], models[1:], self.shares, self.lam, parent, self.name, out
            )
            block._random = self._random
            yield block

    def write(self, formula: Callable[[Inputs], Tensor], rows: bool = False) -> Tensor:
        """The result, `out` if there is one: what the formula makes of every block."""
        if self._out is None:
            self._out = torch.empty_like(self._given[0], dtype=torch.float32)
        for block in self.blocks(rows):
            block._out.copy_(formula(block))
        return self._out


# What becomes of a task vector; told which model's it is (0: the reward model's).
Sparsifier = Callable[[Tensor, int, torch.Generator], Tensor]


def task_arithmetic(x: Inputs) -> Tensor:
    """RM + λ·Σ s·τ_LM. Source: arXiv:2212.04089."""
    return _add(x, lambda delta, *_: delta)


def dare_linear(x: Inputs, density: float, seed: int) -> Tensor:
    """RM + λ·Σ s·DARE(τ_LM): entries dropped at random, the rest divided by the density.

    Source: DARE, arXiv:2311.03099.
    """
    return _add(x, lambda delta, _, random: _drop(delta, density, random), seed)


def della_linear(x: Inputs, density: float, epsilon: float, seed: int) -> Tensor:
    """RM + λ·Σ s·MAGPRUNE(τ_LM), without an election of signs. Source: DELLA, arXiv:2406.11617."""
    return _add(
        x,
        lambda delta, _, random: _drop_small(delta, density, epsilon, random),
        seed,
        rows=True,
    )


def breadcrumbs(x: Inputs, density: float, gamma: float) -> Tensor:
    """RM + λ·Σ s·τ_LM without its largest and smallest entries. Source: arXiv:2312.06795."""
    return _add(x, _band(x, density, gamma, first=1))


def ties(x: Inputs, density: float) -> Tensor:
    """Parent + the weighted mean of the trimmed τ that agree with the elected sign.

    The reward model takes part with weight 1 - λ, each LM with λ·s; all are trimmed.
    Source: TIES, arXiv:2306.01708, with weights.
    """
    return _elect(x, _band(x, density, 0.0))


def dare_ties(x: Inputs, density: float, seed: int) -> Tensor:
    """TIES with DARE's random drop instead of trimming. Source: arXiv:2311.03099."""
    return _elect(x, lambda delta, _, random: _drop(delta, density, random), seed)


def della(x: Inputs, density: float, epsilon: float, seed: int) -> Tensor:
    """TIES with MAGPRUNE instead of trimming. Source: arXiv:2406.11617."""
    return _elect(
        x,
        lambda delta, _, random: _drop_small(delta, density, epsilon, random),
        seed,
        rows=True,
    )


def breadcrumbs_ties(x: Inputs, density: float, gamma: float) -> Tensor:
    """TIES with the Breadcrumbs mask instead of trimming. Source: arXiv:2312.06795."""
    return _elect(x, _band(x, density, gamma))


def sce(x: Inputs, density: float) -> Tensor:
    """(1-λ)·RM + λ·SCE: select by variance, weigh by energy, erase minority signs.

    SCE merges the τ of reward model and LMs: of the entries that differ at all the
    `density` of largest variance stay; a model weighs by the mean of its τ² (an LM's
    times its share over the equal one); entries against the weighed sign of the sum
    are left out of the mean. Source: FuseChat 3.0's method, arXiv:2408.07990.
    """

    def variance(block: Inputs) -> Tensor:
        return torch.stack(block.task_vectors).var(0, unbiased=False)

    least = 0.0
    if density < 1:
        differ = sum(int(variance(block).count_nonzero()) for block in x.blocks())
        count = int(density * differ)
        ((least,),) = (
            _at_ranks(x, lambda block: [variance(block)], [x.size - count])
            if count
            else [[math.inf]]
        )

    def selected(block: Inputs) -> Tensor:
        deltas = torch.stack(block.task_vectors)
        return deltas * (variance(block) >= least) if least else deltas

    energy = sum(
        selected(block).square().flatten(1).sum(1).double() for block in x.blocks()
    )
    relative = [1.0, *(share * len(x.shares) for share in x.shares)]
    weights = energy / x.size * energy.new_tensor(relative)
    total = weights.sum()
    weights = (
        weights / total if total > TINY else torch.full_like(weights, 1 / len(weights))
    ).tolist()

    def merged(block: Inputs) -> Tensor:
        deltas = selected(block)
        mean = _mean_of_sign(deltas, weights, deltas.sum(0))
        return torch.lerp(block.rm, block.parent + mean, x.lam)

    return x.write(merged)


def model_stock(x: Inputs) -> Tensor:
    """(1-λ)·RM + λ·(t·mean + (1-t)·parent), t from the angle between the τ.

    t = N·cos / (1 + (N-1)·cos) over the N models, cos the mean over pairs, taken as 0
    when negative; in the mean an LM counts its share over the equal one.
    Source: Model Stock, arXiv:2403.19522.
    """
    gram = _gram(x, lambda block: block.task_vectors)
    count = len(gram)
    lengths = gram.diag().sqrt()
    lengths = lengths[:, None] * lengths
    cosines = torch.where(lengths > TINY, gram / lengths.clamp(min=TINY), 0.0)
    pairs = count * (count - 1) / 2
    cos = max(0.0, cosines.triu(1).sum().item() / pairs)
    t = count * cos / (1 + (count - 1) * cos)

    def merged(block: Inputs) -> Tensor:
        mean = (block.rm + len(block.lms) * block.mix) / count
        return torch.lerp(block.rm, torch.lerp(block.parent, mean, t), x.lam)

    return x.write(merged)


def slerp(x: Inputs) -> Tensor:
    """The point at λ of the arc from RM to Σ s·LM, each parameter as one vector.

    Source: K. Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.
    """
    gram = _gram(x, lambda block: [block.rm, block.mix])
    start, end = (w.item() for w in _arc(gram[0, 0], gram[1, 1], gram[0, 1], x.lam))
    return x.write(lambda block: _sum([start, end], [block.rm, block.mix]))


def nuslerp(x: Inputs, rows: int) -> Tensor:
    """Parent + the point at λ of the arc from τ_RM to Σ s·τ_LM; row by row if `rows` is 1.

    Source: NuSLERP as mergekit documents it, with task vectors.
    """

    def ends(block: Inputs) -> list[Tensor]:
        return [block.rm - block.parent, block.mix - block.parent]

    def by_row(block: Inputs) -> Tensor:
        start, end = ends(block)
        own = (start.square(), end.square(), start * end)
        last = tuple(range(1, start.ndim)) or None
        first, second = _arc(*(t.sum(last, keepdim=True) for t in own), x.lam)
        return block.parent + first * start + second * end

    if rows:
        return x.write(by_row, rows=True)
    gram = _gram(x, ends)
    arc = [w.item() for w in _arc(gram[0, 0], gram[1, 1], gram[0, 1], x.lam)]
    return x.write(lambda block: block.parent + _sum(arc, ends(block)))


def multislerp(x: Inputs) -> Tensor:
    """Barycentre on the sphere with weights 1-λ and λ·s, in the tangent plane at the mean.

    Directions are averaged on the unit sphere, lengths as numbers.
    Source: C. Goddard, multi-SLERP, as mergekit documents it.
    """
    return _on_the_sphere(x, steps=1, straight=True)


def karcher(x: Inputs) -> Tensor:
    """The point of the sphere with the least weighted sum of squared arcs to all directions.

    Weights 1-λ and λ·s; lengths are averaged as numbers.
    Source: H. Karcher, Riemannian center of mass, 1977; iteration by log and exp maps.
    """
    return _on_the_sphere(x, steps=KARCHER_STEPS, straight=False)


def nearswap(x: Inputs, t: float) -> Tensor:
    """RM + λ·w·(Σ s·LM - RM), w = min(1, t / |difference|): near entries move, far ones hardly.

    Source: NearSwap by alchemonaut, as mergekit documents it.
    """

    def merged(block: Inputs) -> Tensor:
        difference = block.mix - block.rm
        weight = (t / difference.abs().clamp(min=TINY)).clamp(max=1)
        return block.rm + x.lam * difference * weight

    return x.write(merged)


def arcee_fusion(x: Inputs) -> Tensor:
    """RM + λ·(Σ s·LM - RM) where it matters: importance at least median + 1.5·interquartile range.

    The importance of an entry is |difference| times the divergence KL(softmax LM, softmax
    RM) of its row. Source: Arcee Fusion, as mergekit documents it; quantiles are exact here.
    """

    def importance(block: Inputs) -> Tensor:
        ours, theirs = (torch.log_softmax(t, -1) for t in (block.rm, block.mix))
        # Rounding may leave a divergence of nearly nothing below it.
        divergence = (theirs.exp() * (theirs - ours)).sum(-1, keepdim=True).clamp(min=0)
        return (block.mix - block.rm).abs() * divergence

    ranks = [math.floor(q * (x.size - 1)) for q in (0.25, 0.5, 0.75)]
    ((low, middle, high),) = _at_ranks(
        x, lambda block: [importance(block)], ranks, rows=True
    )

    def merged(block: Inputs) -> Tensor:
        matters = importance(block) >= middle + 1.5 * (high - low)
        return block.rm + x.lam * (block.mix - block.rm) * matters

    return x.write(merged, rows=True)


def _add(x: Inputs, sparse: Sparsifier, seed: int = 0, rows: bool = False) -> Tensor:
    """RM + λ·Σ s·sparse(τ): the reward model's own task vector stays whole."""

    def merged(block: Inputs) -> Tensor:
        result = block.rm.clone()
        for index, (share, lm) in enumerate(zip(x.shares, block.lms)):
            delta = sparse(lm - block.parent, index + 1, block.generator(index, seed))
            result.add_(delta, alpha=x.lam * share)
        return result

    return x.write(merged, rows)


def _elect(x: Inputs, sparse: Sparsifier, seed: int = 0, rows: bool = False) -> Tensor:
    """Parent + the mean of the sparse τ, reward model's included, that agree in sign."""

    def merged(block: Inputs) -> Tensor:
        deltas = [
            sparse(delta, index, block.generator(index - 1, seed))
            for index, delta in enumerate(block.task_vectors)
        ]
        mean = _mean_of_sign(deltas, x.weights, _sum(x.weights, deltas))
        return block.parent + mean

    return x.write(merged, rows)


def _mean_of_sign(
    deltas: Sequence[Tensor], weights: Sequence[float], elected: Tensor
) -> Tensor:
    """Weighted mean, at each entry, over those with the sign of `elected`; 0 where none is.

    An elected 0 counts as positive.
    """
    sign = (elected >= 0).float().mul_(2).sub_(1)
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, weight in zip(deltas, weights):
        along = (delta * sign).clamp_(min=0)  # its size, or 0 where it disagrees
        total.add_(along, alpha=weight)
        count.add_(along.sign_(), alpha=weight)
    count.add_(count == 0)  # nothing to divide there
    return total.mul_(sign).div_(count)


def _band(x: Inputs, density: float, gamma: float, first: int = 0) -> Sparsifier:
    """Without the `gamma` largest entries, and without the smallest, so that `density` stay.

    At least one stays. Entries of the same size stay or go together.

    Args:
        first: of the task vectors that it will be given: 0 the reward model's.
    """
    if density >= 1:
        return lambda delta, *_: delta
    count = max(1, int(density * x.size))
    largest = min(int(gamma * x.size), x.size - count)
    ranks = [x.size - largest - count, x.size - largest - 1]

    def sizes(block: Inputs) -> list[Tensor]:
        return [(m - block.parent).abs_() for m in [block.rm, *block.lms][first:]]

    bounds = _at_ranks(x, sizes, ranks)

    def sparse(delta: Tensor, index: int, _: torch.Generator) -> Tensor:
        low, high = bounds[index - first]
        sizes = delta.abs()
        kept = sizes >= low
        return delta * (kept & (sizes <= high) if largest else kept)

    return sparse


def _at_ranks(
    x: Inputs,
    values: Callable[[Inputs], Sequence[Tensor]],
    ranks: Sequence[int],
    rows: bool = False,
) -> list[list[float]]:
    """For each of the value tensors, its entries of those ranks, 0 for the smallest: exact.

    Two passes count the digits of non-negative float32 numbers, whose bits as a whole
    number stand in the same order: first the upper ones, then the lower ones of the
    numbers that share a wanted rank's upper ones.
    """
    upper = _counts(x, values, rows, lambda bits, _: [bits >> LOW_BITS])
    heads = [[_digit(counts, rank) for rank in ranks] for (counts,) in upper]
    lower = _counts(
        x,
        values,
        rows,
        lambda bits, index: [
            bits[bits >> LOW_BITS == head] & (1 << LOW_BITS) - 1
            for head, _ in heads[index]
        ],
    )
    bits = [
        [head << LOW_BITS | _digit(counts, rest)[0] for (head, rest), counts in own]
        for own in map(zip, heads, lower)
    ]
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32).tolist()


def _counts(
    x: Inputs,
    values: Callable[[Inputs], Sequence[Tensor]],
    rows: bool,
    digits: Callable[[Tensor, int], Sequence[Tensor]],
) -> list[list[Tensor]]:
    """How often each digit occurs, for every value tensor and what `digits` takes of its bits."""
    totals: list[list[Tensor]] = []
    for block in x.blocks(rows):
        found = [
            [
                torch.bincount(digit, minlength=1 << LOW_BITS)
                for digit in digits(value.flatten().view(torch.int32), index)
            ]
            for index, value in enumerate(values(block))
        ]
        if not totals:
            totals = found
            continue
        for total, own in zip(totals, found):
            for counts, more in zip(total, own):
                counts.add_(more)
    return totals


def _digit(counts: Tensor, rank: int) -> tuple[int, int]:
    """The digit of the number of that rank, and its rank among those with that digit."""
    up_to = counts.cumsum(0)
    digit = int((up_to <= rank).sum())
    return digit, rank - (int(up_to[digit - 1]) if digit else 0)


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
    width = rows.shape[1]
    steps = torch.arange(width, dtype=torch.float32, device=rows.device)
    chances = density - epsilon + 2 * epsilon * steps / max(1, width - 1)
    order = _order(rows.abs())
    chance = torch.empty_like(rows).scatter_(1, order, chances.expand_as(rows))
    kept = torch.rand(rows.shape, generator=random).to(rows.device) < chance
    return (rows * kept / chance).view_as(delta)


def _order(sizes: Tensor) -> Tensor:
    """Where in each row the smallest, the next … entry is; of equal ones the first first.

    The same on every device. Sorts whole numbers, bits of a float32 that is not negative
    before its place: numpy's sort of those is 20 to 50 times as fast as torch's argsort.
    """
    places = torch.arange(sizes.shape[1], device=sizes.device)
    keys = sizes.view(torch.int32).long() << 31 | places
    if keys.is_cuda:
        keys = keys.sort(1).values
    else:
        keys = torch.from_numpy(np.sort(keys.numpy(), axis=1))
    return keys & (1 << 31) - 1


def _gram(x: Inputs, vectors: Callable[[Inputs], Sequence[Tensor]]) -> Tensor:
    """(M, M) float64 inner products of some vectors, on the CPU: one pass."""
    stacks = (
        torch.stack([v.flatten() for v in vectors(block)]) for block in x.blocks()
    )
    return sum((stack @ stack.T).double() for stack in stacks).cpu()


def _sum(parts: Sequence[float], vectors: Sequence[Tensor]) -> Tensor:
    """Σ part·vector."""
    result = parts[0] * vectors[0]
    for part, vector in zip(parts[1:], vectors[1:]):
        result.add_(vector, alpha=part)
    return result


def _arc(start: Tensor, end: Tensor, both: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """How much of two vectors is in the point at t of the arc between them.

    Args:
        start, end, both: the inner products of the first with itself, of the second with
            itself, and of the two. Near parallel vectors are interpolated linearly.
    """
    lengths = start.sqrt() * end.sqrt()
    cos = both / lengths.clamp(min=TINY)
    angle = cos.clamp(-1, 1).acos()
    straight = (cos.abs() > PARALLEL) | (lengths < TINY)
    sine = torch.where(straight, 1.0, angle.sin())
    first = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    second = torch.where(straight, t, (t * angle).sin() / sine)
    return first, second


def _on_the_sphere(x: Inputs, steps: int, straight: bool) -> Tensor:
    """The mean direction of all models, times their mean length.

    The direction is a combination of the models', so that only their inner products are
    needed. From the mean of the unit vectors it goes, in each step, along the weighted
    sum of the ways to them in the tangent plane: each as long as the arc, or, if
    `straight`, as the unit vector's projection.
    """
    gram = _gram(x, lambda block: [block.rm, *block.lms])
    norms = gram.diag().sqrt()
    sizes = norms.clamp(min=TINY)
    gram = gram / sizes[:, None] / sizes
    weights = gram.new_tensor(x.weights)

    def norm(part: Tensor) -> Tensor:
        return (part @ gram @ part).clamp(min=0).sqrt()

    if norm(weights) < 1e-6:  # directions that cancel have no mean direction
        return x.write(lambda block: torch.lerp(block.rm, block.mix, x.lam))
    point = weights / norm(weights)  # as parts of the directions, like all below
    for _ in range(steps):
        cosines = (gram @ point).clamp(-1, 1)
        angles = cosines.acos()
        stretch = torch.where(angles < 1e-4, 1.0, angles / angles.sin().clamp(min=1e-6))
        pull = weights if straight else weights * stretch
        step = pull - (pull @ cosines) * point
        length = norm(step)
        if length < 1e-7:
            break
        point = point * length.cos() + step * (length.sin() / length)
        point = point / norm(point)
    parts = (weights @ norms * point / sizes).tolist()
    return x.write(lambda block: _sum(parts, [block.rm, *block.lms]))
