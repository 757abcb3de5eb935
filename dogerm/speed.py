"""What this machine does: merging against copying, scoring against multiplying, a curve, others."""

from __future__ import annotations

import gc
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import psutil
import torch
from transformers import PretrainedConfig

from dogerm.engine import Engine
from dogerm.family import Family
from dogerm.live import device_named, dtype_named
from dogerm.method_speed import MethodSpeed, measure_methods
from dogerm.peers import (
    Peer,
    against_mergekit,
    against_reference,
    alternating,
    check,
)
from dogerm.plan import Place
from dogerm.provenance import versions
from dogerm.quantised import QUANTISATIONS, Quantised
from dogerm.recipe import Recipe
from dogerm.scoring import Tokens, rewards, tokenise
from dogerm.sweep import GRID, curve
from dogerm.synthetic import SPECIAL, llama_240m, write_family

PLACES: tuple[Place, ...] = ("device", "pinned", "mapped")
# Sixteen answers to one question, as in best-of-16.
PROMPT_WORDS, RESPONSE_WORDS, RESPONSES = 200, (100, 175), 16
# What one λ of another program's pipeline scores: a pair.
PAIR_WORDS = 20
# Square matrices, large enough that more would not go faster.
GEMM = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Merging:
    """One re-merge against a copy of as many bytes, in seconds (medians); None: not measured here.

    Args:
        lms: how many LMs are merged with the reward model.
        sources: where they lie: device, pinned or mapped.
        dtype: of the live model: float32, bfloat16, float16, or int8 or nf4 linear layers.
        nbytes: read and written by the merge, and by the copy. From host memory to a
            GPU: those that cross the link, and the copy is one across it.
    """

    lms: int
    sources: Place
    dtype: str
    nbytes: int | None = None
    seconds: float | None = None
    copy_seconds: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.seconds is None else self.seconds / self.copy_seconds


@dataclass(frozen=True)
class Scoring:
    """Conversations scored, against matrix multiplication in the same dtype (medians).

    Args:
        tokens: of the conversations; none has its prompt shared.
        flops: of the forward passes over them, attention included, without padding.
        gemm_flops_per_second: of a product of two square matrices.
    """

    dtype: str
    tokens: int
    flops: float
    seconds: float
    gemm_flops_per_second: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def ratio(self) -> float:
        """The part of the matrix-multiply rate that scoring reaches."""
        return self.flops / self.seconds / self.gemm_flops_per_second


@dataclass(frozen=True)
class Answers:
    """Scoring the answers to one prompt in three ways, in seconds (medians).

    Args:
        tokens: of all conversations, each with the prompt.
        shared: as dogerm does it, the prompt computed once.
        batch: all conversations in one padded batch, by the model's own forward.
        one_by_one: a batch each.
        largest_difference: between the rewards of the first and the last way.
    """

    responses: int
    tokens: int
    shared: float
    batch: float
    one_by_one: float
    largest_difference: float


@dataclass(frozen=True)
class FamilySpeed:
    """A family's own rates: tokens scored a second, and a fresh curve in seconds (medians)."""

    name: str
    parameters: int
    dtype: str
    tokens_per_second: float
    curve_seconds: float
    curve_points: int
    curve_responses: int


@dataclass(frozen=True)
class Speed:
    """What `measure` found.

    Args:
        machine: processor, cores, threads, memory, GPU, versions.
        parameters: of the synthetic model that was merged and scored.
        methods: each merge method on one parameter of that model.
    """

    machine: Mapping[str, Any]
    parameters: int
    merging: tuple[Merging, ...]
    scoring: Scoring
    answers: Answers
    family: FamilySpeed
    against: tuple[Peer, ...] = ()
    methods: tuple[MethodSpeed, ...] = ()

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        for row, merging in zip(data["merging"], self.merging):
            row["ratio"] = merging.ratio
        data["scoring"] |= {
            "tokens_per_second": self.scoring.tokens_per_second,
            "ratio": self.scoring.ratio,
        }
        for row, peer in zip(data["against"], self.against):
            row |= {
                "ratio": peer.ratio,
                "merge_ratio": peer.merge_ratio,
                "score_ratio": peer.score_ratio,
            }
        return data


def measure(
    family: Family,
    device: str = "auto",
    dtype: str = "float16",
    quantised: Quantised | None = None,
    config: PretrainedConfig | None = None,
    against: Sequence[str] = (),
    mergekit_python: Path | None = None,
    repeats: int = 9,
    folder: Path | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Speed:
    """Merging, scoring and a curve on this machine, in one run, each as a median after a warm-up.

    Merging and the 16 answers use synthetic checkpoints of 240M parameters, 1.5 GB of
    disk while it runs (2.5 GB with the reference); tokens a second and the curve use the
    family. It takes minutes on two cores, most of it for the 16 answers; these, merging
    into codes and others' pipelines are repeated a third as often.

    Args:
        dtype: of the synthetic checkpoints and of the live model that is merged.
        quantised: the family's linear layers; the synthetic model's are measured each way.
        config: another shape for the synthetic checkpoints.
        against: others to measure too, of `dogerm.peers.PEERS`.
        mergekit_python: the interpreter that has mergekit.
        folder: where to put the checkpoints; None: the system's temporary folder.
        on_step: told what is measured next.

    Raises:
        PeerError: a peer is not known or cannot be run; found out before anything is measured.
    """
    config, say = config or llama_240m(), on_step or (lambda step: None)
    check(against, mergekit_python)
    threads = torch.get_num_threads()
    few = max(1, repeats // 3)
    try:
        with tempfile.TemporaryDirectory(prefix="dogerm-speed-", dir=folder) as root:
            say("Writing synthetic checkpoints")
            synthetic = write_family(Path(root), config, dtype_named(dtype))
            merging: list[Merging] = []
            for held in (None, *QUANTISATIONS):
                say(f"Merging into {held or dtype}")
                often = few if held else repeats
                merging += _merging(synthetic, device, dtype, held, often)
            peers = []
            for name in against:
                say(f"Merging as {name} does")
                peers.append(
                    _reference(synthetic, device, few, folder)
                    if name == "reference"
                    else _mergekit(
                        synthetic, device, dtype, mergekit_python, few, folder
                    )
                )
                _give_back(device_named(device))
            say("Merging by every method")
            shape = (config.intermediate_size, config.hidden_size)
            place = device_named(device)
            methods = measure_methods(shape, dtype_named(dtype), place, few)
            say(f"Scoring {RESPONSES} answers")
            # In this device's own dtype: 16-bit arithmetic on a CPU is another matter.
            engine = Engine.load(synthetic, device)
            found, size = machine(engine.device), engine.size
            answers, scoring = _answers(engine, few)
            del engine
            _give_back(device_named(device))
        say(f"Scoring with {family.name}")
        own = _family_speed(Engine.load(family, device, quantised=quantised), repeats)
    finally:
        torch.set_num_threads(threads)  # a small model takes one
    return Speed(
        found, size, tuple(merging), scoring, answers, own, tuple(peers), methods
    )


def _merging(
    family: Family,
    device: str,
    dtype: str,
    quantised: Quantised | None,
    repeats: int,
) -> Iterator[Merging]:
    """One and two LMs, from each place that the device has."""
    held = quantised or dtype
    for place in PLACES:
        if place == "pinned" and device_named(device).type == "cpu":
            yield from (Merging(count, place, held) for count in (1, 2))
            continue
        engine = Engine.load(family, device, dtype, quantised, keep=place)
        yield from (_merge(engine, count, repeats) for count in (1, 2))
        del engine  # before the next is planned from the free memory
        _give_back(device_named(device))


def _give_back(device: torch.device) -> None:
    """Let the device see as free what models that are gone have held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _merge(engine: Engine, count: int, repeats: int) -> Merging:
    shares = dict.fromkeys(list(engine.family.lms)[:count], 1.0)
    recipes = cycle([Recipe(lam, shares) for lam in (0.3, 0.6)])
    copying, nbytes = _copying(engine, count)
    copy, merge = alternating(
        [copying, lambda: engine.apply(next(recipes))], engine.device, repeats
    )
    return Merging(count, engine.plan.place, engine.dtype, nbytes, merge, copy)


def _copying(engine: Engine, count: int) -> tuple[Callable[[], object], int]:
    """A copy of as many bytes as a merge of `count` LMs must move, and how many those are.

    Such a merge reads count + 1 models and writes one. From host memory to a GPU what
    it reads crosses the link, which is slower than either memory.
    """
    stored = engine.sources.rm.dtype
    read = (count + 1) * engine.size * stored.itemsize
    link = engine.device.type == "cuda" and engine.plan.place != "device"
    nbytes = read if link else read + engine.plan.live
    moved = nbytes if link else nbytes // 2  # a copy within a memory reads and writes
    source = torch.ones(
        moved // stored.itemsize, dtype=stored, device="cpu" if link else engine.device
    )
    if link and engine.plan.place == "pinned":
        source = source.pin_memory()
    target = torch.zeros_like(source, device=engine.device)
    return lambda: target.copy_(source, non_blocking=True), nbytes


def _reference(family: Family, device: str, repeats: int, folder: Path | None) -> Peer:
    """Against a model in this device's own dtype, as dogerm scores: 16-bit scoring on a CPU is slow."""
    engine = Engine.load(family, device)
    pair = _tokens(engine, PAIR_WORDS, [PAIR_WORDS] * 2)
    return against_reference(engine, pair, repeats, folder)


def _mergekit(
    family: Family,
    device: str,
    dtype: str,
    python: Path | None,
    repeats: int,
    folder: Path | None,
) -> Peer:
    engine = Engine.load(family, device, dtype)
    return against_mergekit(engine, python, repeats, folder)


def _tokens(engine: Engine, prompt: int, answers: Sequence[int]) -> Tokens:
    """A random prompt and answers to it, of so many words each."""
    random, vocabulary = Random(0), engine.tokenizer.vocab_size

    def text(words: int) -> str:
        ids = (random.randrange(len(SPECIAL), vocabulary) for _ in range(words))
        return " ".join(f"w{i}" for i in ids)

    return tokenise(engine, text(prompt), [text(words) for words in answers])


def _answers(engine: Engine, repeats: int) -> tuple[Answers, Scoring]:
    random, recipe = Random(1), engine.recipe
    words = [random.randint(*RESPONSE_WORDS) for _ in range(RESPONSES)]
    shared = _tokens(engine, PROMPT_WORDS, words)
    alone = [Tokens((ids,), 0, (0,)) for ids in shared.sequences]
    found: dict[str, list[float]] = {}

    def one_by_one() -> None:
        found["alone"] = [rewards(engine, recipe, [item])[0][0] for item in alone]

    def with_shared_prompt() -> None:
        [found["shared"]] = rewards(engine, recipe, [shared])

    multiply, product = _gemm(engine)
    # A warm-up that does not take as long as the rest.
    rewards(engine, recipe, alone[:1])
    multiply()
    *seconds, together, multiplying = alternating(
        [
            with_shared_prompt,
            lambda: _one_padded_batch(engine, shared.sequences),
            one_by_one,
            lambda: rewards(engine, recipe, alone),
            multiply,
        ],
        engine.device,
        repeats,
        warm=True,
    )
    difference = max(abs(a - b) for a, b in zip(found["alone"], found["shared"]))
    lengths = [len(ids) for ids in shared.sequences]
    answers = Answers(RESPONSES, sum(lengths), *seconds, largest_difference=difference)
    scoring = Scoring(
        engine.dtype,
        sum(lengths),
        _flops(engine, lengths),
        together,
        product / multiplying,
    )
    return answers, scoring


def _gemm(engine: Engine) -> tuple[Callable[[], object], float]:
    """A matrix product in the live dtype, and its floating-point operations."""
    n = GEMM[engine.device.type]
    a, b, out = (
        torch.ones(n, n, dtype=engine.model.dtype, device=engine.device)
        for _ in range(3)
    )
    return lambda: torch.mm(a, b, out=out), 2.0 * n**3


def _flops(engine: Engine, lengths: Sequence[int]) -> float:
    """Of a forward pass over whole conversations: linear layers, and the causal half of attention."""
    config = engine.model.config
    linear = sum(
        slot.shape.numel()
        for name, slot in engine.slots.items()
        if len(slot.shape) == 2 and name in engine.fit.merged
        if name != engine.fit.embedding
    )
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    attention = 2 * config.num_hidden_layers * width * sum(n * n for n in lengths)
    return 2.0 * linear * sum(lengths) + attention


@torch.inference_mode()
def _one_padded_batch(
    engine: Engine, sequences: Sequence[Sequence[int]]
) -> list[float]:
    """Rewards of whole conversations as transformers gives them, in one forward pass."""
    model = engine.model
    longest = max(map(len, sequences))
    table = torch.full((len(sequences), longest), model.config.pad_token_id)
    for row, ids in zip(table, sequences):
        row[: len(ids)] = torch.tensor(ids)
    ids = table.to(engine.device)
    mask = (ids != model.config.pad_token_id).long()
    return model(input_ids=ids, attention_mask=mask).logits.flatten().tolist()


def _family_speed(engine: Engine, repeats: int) -> FamilySpeed:
    prompt = "What is 17 + 25? Explain each step."
    texts = [
        f"17 + 25 = {n}, since 17 + 20 = 37 and 37 + 5 = {n}." for n in range(40, 44)
    ]
    shares = cycle([dict(zip(engine.family.lms, parts)) for parts in ((2, 1), (1, 1))])
    items = [tokenise(engine, f"{i} {prompt}", texts) for i in range(32)]
    tokens = sum(len(ids) for item in items for ids in item.sequences)
    scoring, drawing = alternating(
        [
            lambda: rewards(engine, engine.recipe, items),
            lambda: curve(engine, prompt, texts, next(shares)),
        ],
        engine.device,
        repeats,
    )
    return FamilySpeed(
        name=engine.family.name,
        parameters=engine.size,
        dtype=engine.dtype,
        tokens_per_second=tokens / scoring,
        curve_seconds=drawing,
        curve_points=len(GRID),
        curve_responses=len(texts),
    )


def machine(device: torch.device) -> dict[str, Any]:
    """The machine that numbers were measured on: processor, cores, memory, GPU, load, versions."""
    cuda = device.type == "cuda"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "memory": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if "model name" in line)
    return next(names, platform.processor())
