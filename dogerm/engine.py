"""Engine: the live reward model, re-merged in place as recipes ask for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from inspect import signature

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from dogerm.checkpoint import Checkpoint, head_of
from dogerm.compatibility import Compatibility, compare
from dogerm.errors import CheckpointError, OutOfMemory
from dogerm.family import PARENT, Family, RewardAt
from dogerm.hub import is_here
from dogerm.live import Slot, build, devices_named, live_dtype
from dogerm.merge import check_method
from dogerm.plan import WORDS, Place, Plan, make_plan, require
from dogerm.quantised import Quantised
from dogerm.recipe import Recipe
from dogerm.sources import Sources, Tensors, merge, open_models
from dogerm.threads import FairLock, in_threads
from dogerm.weights import one_line

# Below this size a second thread costs more in waiting than it gives in work,
# most of all when other programs want the cores too.
ONE_THREAD_PARAMETERS = 20_000_000
_log = logging.getLogger("dogerm")
# A pass over some tokens costs as much as this many tokens more: for reading the weights,
WEIGHTS_TOKENS = 16
# and for starting a layer's operations, in what the device computes meanwhile.
LAYER_START = {"cpu": 7e7, "cuda": 2.5e11}  # FLOP a layer
# Longer passes do not compute faster on a CPU: their values leave its caches.
PASS_TOKENS = {"cpu": 2048, "cuda": 1 << 20}


@dataclass(frozen=True)
class Batch:
    """Token ids of some responses that follow shared prompts.

    P prompts are padded on the left to T tokens, R responses on the right to S, so
    that distances between real tokens are what they would be without padding.

    Args:
        prompts: (P, T) int64, or None when every sequence is whole in `responses`.
        prompt_lengths: (P,) int64, real tokens of each prompt.
        owner: (R,) int64, the prompt of each response.
        responses: (R, S) int64.
        lengths: (R,) int64, real tokens of each response, at least 1.
    """

    prompts: Tensor | None
    prompt_lengths: Tensor | None
    owner: Tensor | None
    responses: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class MergeReport:
    """What the last merge did.

    Args:
        recipe: what the live weights now are.
        merged, kept: parameters merged, and kept from the reward model.
        appended: tokens that only LMs have, with their rows.
        seconds: wall time of the merge.
    """

    recipe: Recipe
    merged: tuple[str, ...]
    kept: tuple[str, ...]
    appended: tuple[str, ...]
    seconds: float


class Engine:
    """A reward model whose live weights are those of any recipe.

    Every merge starts from the original weights, so recipes leave no trace on each
    other, and lam = 0 is the reward model bit for bit. One recipe is live at a time;
    `using` takes the lock for as long as its rewards are needed.
    """

    def __init__(
        self,
        family: Family,
        model: PreTrainedModel,
        slots: Mapping[str, Slot],
        sources: Sources,
        plan: Plan,
    ):
        self.family, self.model, self.slots, self.plan = family, model, slots, plan
        self.sources, self.fit = sources, sources.fit
        self.tokenizer = sources.rm.tokenizer
        self.report: MergeReport | None = None
        self._lock = FairLock()
        self._head = head_of(model)[1]

    @classmethod
    def load(
        cls,
        family: Family,
        device: str = "auto",
        dtype: str | None = None,
        quantised: Quantised | None = None,
        parent: bool | None = None,
        keep: Place | None = None,
    ) -> Engine:
        """The family's reward model, live on a device, ready to be merged.

        Args:
            device: auto, cpu, cuda, cuda:N, or several GPUs, cuda:0,cuda:1, which the
                model is spread over. auto takes one GPU where one is enough.
            dtype: float32, bfloat16, float16; None: the family's, else the stored
                16-bit one on a GPU and float32 on a CPU.
            quantised: hold the linear layers as int8, in half the memory of 16-bit, or as
                nf4, in 0.28 of it. Rewards then differ a little from 16-bit ones, and
                int8's with the batch.
            parent: load the family's parent, for the methods that need it; None: if it
                is on this machine already.
            keep: where the original weights are kept; None: where the plan puts them.

        Raises:
            CheckpointError, CheckpointMismatch: see `Checkpoint` and `compare`.
            DeviceError: no such device, or too little memory on it.
        """
        choices = devices_named(device)
        if parent is None:
            parent = bool(family.parent) and is_here(family.parent, PARENT)
        rm, lms = open_models(family, parent)
        fit = compare(rm, lms)
        kind = choices[0][0]
        precision = live_dtype(dtype or family.dtype, rm.dtype, kind, quantised)

        def plan_with(place: Place | None) -> Plan:
            return make_plan(rm, lms, fit, choices, precision, quantised, place=place)

        plan = plan_with(keep)
        require(plan)
        while True:
            try:
                return cls._loaded(family, rm, lms, fit, plan, precision)
            except OutOfMemory:
                # The plan's estimate was short, or another program took the memory.
                if keep or plan.place == "mapped":
                    raise
            pinned = plan.place == "device" and kind.type == "cuda"
            plan = plan_with("pinned" if pinned else "mapped")
            _log.warning(
                "%s ran out of memory; the sources are now %s.",
                plan.device,
                WORDS[plan.place],
            )

    @classmethod
    def _loaded(
        cls,
        family: Family,
        rm: Checkpoint,
        lms: Mapping[str, Checkpoint],
        fit: Compatibility,
        plan: Plan,
        dtype: torch.dtype,
    ) -> Engine:
        with _memory_errors(plan.device):
            model, slots = build(rm, fit.vocabulary.size, plan, dtype)
            sources = Sources(rm, lms, fit, plan.place, slots)
        engine = cls(family, model, slots, sources, plan)
        if plan.kind == "cpu" and engine.size < ONE_THREAD_PARAMETERS:
            torch.set_num_threads(1)
        engine.apply(family.recipe(lam=0))
        if plan.quantised:
            engine._check_codes()
        return engine

    def _check_codes(self) -> None:
        """CheckpointError where the model's own layers read weights that are codes now.

        Some, of state-space models mostly, pass a linear layer by and take its weight.
        """
        try:
            self.along([0, 1])
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"a {self.model.config.model_type} model cannot be held in "
                f"{self.plan.quantised}: its layers read weights that are codes then "
                f"({one_line(error)}) Load it in 16 bits, with --dtype bfloat16."
            ) from None

    @property
    def recipe(self) -> Recipe | None:
        """What the live weights are; None while, or after, a merge that failed."""
        return self.report.recipe if self.report else None

    @property
    def device(self) -> torch.device:
        """Where text is read and rewards are made: the only device, or the first."""
        return self.model.device

    @property
    def dtype(self) -> str:
        """How the live weights are held: float32, bfloat16, float16, int8 or nf4."""
        return self.plan.quantised or self.plan.dtype

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(slot.shape.numel() for slot in self.slots.values())

    @property
    def max_tokens(self) -> int:
        """The longest conversation that is read, in tokens."""
        # Some that tell positions apart by distance alone name no length in their config.
        own = getattr(self.model.config, "max_position_embeddings", None)
        own = own or self.tokenizer.model_max_length
        return min(own, self.family.max_tokens or own)

    @property
    def reward_at(self) -> RewardAt:
        """Where in a conversation the reward is read: as the family says, else as it was trained."""
        return self.family.reward_at or self.sources.rm.reward_at

    @property
    def pad_token(self) -> int | None:
        """The id that the reward model's configuration calls padding."""
        return self.model.config.get_text_config().pad_token_id

    @cached_property
    def shares_prompts(self) -> bool:
        """Whether what was computed of a prompt can be taken up again by each of its responses.

        Keys and values can. What linear attention and state-space layers keep instead has
        no rows to select in transformers' caches, and holds the padding it was read with.
        """
        if "past_key_values" not in signature(self._backbone.forward).parameters:
            return False
        layers = DynamicCache(config=self.model.config).layers
        return all(
            isinstance(layer, DynamicLayer)
            and not isinstance(layer, LinearAttentionCacheLayerMixin)
            for layer in layers
        )

    @contextmanager
    def using(self, recipe: Recipe) -> Iterator[Engine]:
        """The engine with the recipe's weights live, for this thread alone."""
        with self._lock:
            self.apply(recipe)
            yield self

    def apply(self, recipe: Recipe) -> MergeReport:
        """Make the recipe's weights live, unless they are already.

        Raises:
            RecipeError: the method, a share's LM, a layer or a part is not there. Nothing
                is touched then.
            CheckpointError: a source of the merge holds NaN or infinity; names the tensor.
                The next recipe is merged anew.
        """
        check_method(recipe, parent=PARENT in self.sources.lms)
        self.fit.anatomy.check(recipe)
        self.family.recipe(shares=recipe.shares)  # names an LM that is not there
        with self._lock:
            if self.report and recipe == self.report.recipe:
                return self.report
            self.report = None  # a merge cut short must not pass for a finished one
            started = time.perf_counter()
            with torch.no_grad(), _memory_errors(self.plan.device):
                self._merge(recipe)
            self.report = MergeReport(
                recipe,
                self.fit.merged,
                self.fit.kept,
                self.fit.vocabulary.appended,
                time.perf_counter() - started,
            )
            return self.report

    def _merge(self, recipe: Recipe) -> None:
        # The largest first, so that no thread is left alone with it at the end.
        names = sorted(self.slots, key=lambda name: -self.slots[name].shape.numel())
        if not self._streams:
            threads = torch.get_num_threads() if self.device.type == "cpu" else 1
            in_threads(lambda name: self._write(name, recipe), names, threads)
            return
        # The next parameter is read while this one is merged.
        with ThreadPoolExecutor(1) as reader:

            def start(name: str) -> Future:
                return reader.submit(self._fetch, name, recipe)

            coming = start(names[0])
            for name, after in zip(names, [*names[1:], None]):
                ready = coming.result()
                coming = start(after) if after else None
                self.slots[name].write(
                    lambda out, name=name, ready=ready: merge(out, name, ready)
                )

    @property
    def _streams(self) -> bool:
        """Whether a merge reads across a link, which is worth doing ahead of time."""
        return self.device.type != "cpu" and self.plan.place != "device"

    def _write(self, name: str, recipe: Recipe) -> None:
        self.slots[name].write(lambda out: merge(out, name, self._fetch(name, recipe)))

    def _fetch(self, name: str, recipe: Recipe) -> Tensors:
        """What a merge of a parameter reads, found to be numbers."""
        given = self.sources.fetch(name, recipe, self.slots[name].device)
        self.sources.check(name, given)
        return given

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Reward of each response at its last real token: (R,) float32 on the CPU.

        The prompts run once; responses of like length run together after them, so that
        little of the work is padding. Only differences between rewards under one recipe
        mean anything; the zero point moves with λ. The head's product is taken in
        float32, so that 16-bit weights do not make ties of near rewards.
        """
        last = torch.empty(len(batch.responses), self._head.in_features)
        last = last.to(self.device)
        with _memory_errors(self.plan.device):
            seen, cache = self._read_prompts(batch)
            for rows in _alike(batch.lengths.tolist(), *self._passes):
                part = torch.tensor(rows)
                owners = None if batch.owner is None else batch.owner[part]
                lengths = batch.lengths[part]
                ids = batch.responses[part, : int(lengths.max())]
                hidden = self._read_responses(ids, lengths, owners, seen, cache)
                last[part.to(self.device)] = hidden.float()
        return self._rewards(last)

    @torch.inference_mode()
    def along(self, ids: Sequence[int]) -> Tensor:
        """The reward as it would be read after each token of one conversation: (T,) float32.

        One pass: attention looks only back, so that every prefix is scored in it. Only
        the last value is a reward the model was trained to give.
        """
        with _memory_errors(self.plan.device):
            read = self._backbone(
                input_ids=torch.tensor([ids], device=self.device), use_cache=False
            )
            return self._rewards(read.last_hidden_state[0].to(self.device))

    def _rewards(self, hidden: Tensor) -> Tensor:
        """The score head's product with (N, d) hidden states: (N,) float32 on the CPU."""
        weight, bias = self._head.weight.float(), self._head.bias
        bias = None if bias is None else bias.float()
        return F.linear(hidden.float(), weight, bias).squeeze(-1).cpu()

    def _read_prompts(self, batch: Batch) -> tuple[Tensor | None, Cache | None]:
        """Which tokens of the prompts are real, (P, T) int64, and their keys and values."""
        if batch.prompts is None:
            return None, None
        prompts = batch.prompts.to(self.device)
        known = batch.prompt_lengths.to(self.device)
        width = torch.arange(prompts.shape[1], device=self.device)
        seen = (width >= prompts.shape[1] - known[:, None]).long()
        read = self._backbone(
            input_ids=prompts,
            attention_mask=seen,
            position_ids=(seen.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
        )
        return seen, read.past_key_values

    def _read_responses(
        self,
        ids: Tensor,
        lengths: Tensor,
        owners: Tensor | None,
        seen: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        """The hidden state of each response's last token, (N, d), after its prompt if any.

        The cache is left as it is, for the next responses.
        """
        ids, lengths = ids.to(self.device), lengths.to(self.device)
        steps = torch.arange(ids.shape[1], device=self.device)
        mask = (steps < lengths[:, None]).long()  # (N, S)
        positions = steps.expand_as(ids)
        own = None
        if cache is not None:
            before = seen[owners.to(self.device)]
            positions = positions + before.sum(1, keepdim=True)
            mask = torch.cat([before, mask], dim=1)  # (N, T + S)
            own = copy(cache)  # of the list of layers; selecting copies what is in them
            own.layers = [copy(layer) for layer in cache.layers]
            for layer in own.layers:  # each on its own device
                layer.batch_select_indices(owners.to(layer.keys.device))
        hidden = self._backbone(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=own,
            use_cache=own is not None,
        ).last_hidden_state  # (N, S, d)
        rows = torch.arange(len(ids), device=hidden.device)
        return hidden[rows, lengths.to(hidden.device) - 1].to(self.device)

    @property
    def _backbone(self) -> nn.Module:
        return getattr(self.model, self.model.base_model_prefix)

    @property
    def _passes(self) -> tuple[float, int]:
        """Tokens that take as long as starting a pass, and the most tokens of one."""
        kind = self.device.type
        layers = self.model.config.num_hidden_layers
        start = layers * LAYER_START[kind] / (2 * self.size)
        return WEIGHTS_TOKENS + start, PASS_TOKENS[kind]


def _alike(lengths: Sequence[int], start: float, most: int) -> Iterator[list[int]]:
    """Indices of the lengths in groups, the longest first, each to be padded to its longest.

    Args:
        start: a group begins where the padding of the last one would exceed this.
        most: padded tokens of a group, unless one length alone is more.
    """
    group: list[int] = []
    width = padding = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padding += width - lengths[index]
        if group and (padding > start or (len(group) + 1) * width > most):
            yield group
            group = []
        if not group:
            width, padding = lengths[index], 0
        group.append(index)
    yield group


@contextmanager
def _memory_errors(device: str) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        torch.cuda.empty_cache()
        raise OutOfMemory(
            f"{device} has too little free memory. Close other programs on it, "
            "use fewer or shorter responses, or load with --dtype bfloat16, "
            "--load-in-8bit or --load-in-4bit."
        ) from None


def _is_shortage(error: Exception) -> bool:
    """Whether memory ran out; of host memory, and of pinned memory, torch says so in words only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )
