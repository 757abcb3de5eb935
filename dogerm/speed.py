"""What this machine does: merging against copying, shared prompts against batches, a curve."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import psutil
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from dogerm.engine import Engine
from dogerm.export import write_weights
from dogerm.family import Family
from dogerm.live import dtype_named
from dogerm.provenance import versions
from dogerm.recipe import Recipe
from dogerm.scoring import Tokens, rewards, tokenise
from dogerm.sweep import GRID, curve

TEMPLATE = (
    "<s>{% for m in messages %} <{{ m['role'] }}> {{ m['content'] }}{% endfor %} </s>"
)
SPECIAL = ("<pad>", "<s>", "</s>", "<user>", "<assistant>", "<system>")
# Sixteen answers to one question, as in best-of-16.
PROMPT_WORDS, RESPONSE_WORDS, RESPONSES = 200, (100, 175), 16


@dataclass(frozen=True)
class Merging:
    """One re-merge against a copy of as many bytes, in seconds (medians).

    Args:
        lms: how many LMs are merged with the reward model.
        sources: where they lie: device, pinned or mapped.
        nbytes: read and written by the merge, and by the copy.
    """

    lms: int
    sources: str
    dtype: str
    nbytes: int
    seconds: float
    copy_seconds: float

    @property
    def ratio(self) -> float:
        return self.seconds / self.copy_seconds


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
    """

    machine: Mapping[str, Any]
    parameters: int
    merging: tuple[Merging, ...]
    answers: Answers
    family: FamilySpeed

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        for row, merging in zip(data["merging"], self.merging):
            row["ratio"] = merging.ratio
        return data


def measure(
    family: Family,
    device: str = "auto",
    dtype: str = "float16",
    config: PretrainedConfig | None = None,
    repeats: int = 9,
    folder: Path | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Speed:
    """Merging, scoring and a curve on this machine, in one run, each as a median after a warm-up.

    Merging and the 16 answers use synthetic checkpoints of 240M parameters, 1.5 GB of
    disk while it runs; tokens a second and the curve use the family. It takes
    minutes on two cores, most of it for the 16 answers, repeated a third as often.

    Args:
        dtype: of the synthetic checkpoints and of the live model that is merged.
        config: another shape for the synthetic checkpoints.
        folder: where to put them; None: the system's temporary folder.
        on_step: told what is measured next.
    """
    config, say = config or llama_240m(), on_step or (lambda step: None)
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="dogerm-speed-", dir=folder) as root:
            say("Writing synthetic checkpoints")
            synthetic = _synthetic_family(Path(root), config, dtype)
            engine = Engine.load(synthetic, device, dtype)
            machine, size = _machine(engine), engine.size
            merging = []
            for count in (1, 2):
                say(f"Merging with {count} LM{'s' if count > 1 else ''}")
                merging.append(_merging(engine, count, repeats))
            say(f"Scoring {RESPONSES} answers")
            # In this device's own dtype: 16-bit arithmetic on a CPU is another matter.
            engine = Engine.load(synthetic, device)
            answers = _answers(engine, max(1, repeats // 3))
            del engine
        say(f"Scoring with {family.name}")
        own = _family_speed(Engine.load(family, device), repeats)
    finally:
        torch.set_num_threads(threads)  # a small model takes one
    return Speed(machine, size, tuple(merging), answers, own)


def _merging(engine: Engine, count: int, repeats: int) -> Merging:
    shares = dict.fromkeys(list(engine.family.lms)[:count], 1.0)
    recipes = cycle([Recipe(lam, shares) for lam in (0.3, 0.6)])
    # A merge of n LMs reads n + 1 models and writes one; a copy reads what it writes.
    elements = engine.size * (count + 2) // 2
    dtype = next(engine.model.parameters()).dtype
    source = torch.ones(elements, dtype=dtype, device=engine.device)
    target = torch.zeros_like(source)
    copy, merge = _alternating(
        [lambda: target.copy_(source), lambda: engine.apply(next(recipes))],
        engine.device,
        repeats,
    )
    nbytes = 2 * source.nbytes
    return Merging(count, engine.plan.place, engine.dtype, nbytes, merge, copy)


def _answers(engine: Engine, repeats: int) -> Answers:
    random = Random(0)
    vocabulary = engine.tokenizer.vocab_size

    def text(words: int) -> str:
        ids = (random.randrange(len(SPECIAL), vocabulary) for _ in range(words))
        return " ".join(f"w{i}" for i in ids)

    texts = [text(random.randint(*RESPONSE_WORDS)) for _ in range(RESPONSES)]
    shared = tokenise(engine, text(PROMPT_WORDS), texts)
    alone = [Tokens((ids,), 0, (0,)) for ids in shared.sequences]
    recipe = engine.recipe
    found: dict[str, list[float]] = {}

    def one_by_one() -> None:
        found["alone"] = [rewards(engine, recipe, [item])[0][0] for item in alone]

    def with_shared_prompt() -> None:
        [found["shared"]] = rewards(engine, recipe, [shared])

    rewards(
        engine, recipe, alone[:1]
    )  # a warm-up that does not take as long as the rest
    seconds = _alternating(
        [
            with_shared_prompt,
            lambda: _one_padded_batch(engine, shared.sequences),
            one_by_one,
        ],
        engine.device,
        repeats,
        warm=True,
    )
    difference = max(abs(a - b) for a, b in zip(found["alone"], found["shared"]))
    tokens = sum(map(len, shared.sequences))
    return Answers(RESPONSES, tokens, *seconds, largest_difference=difference)


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
    scoring, drawing = _alternating(
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


def _alternating(
    actions: list[Callable[[], object]],
    device: torch.device,
    repeats: int,
    warm: bool = False,
) -> list[float]:
    """Median seconds of each action; they take turns, so that all see the same machine.

    The first round is a warm-up that does not count, unless they are warm.
    """
    times: list[list[float]] = [[] for _ in actions]
    skipped = 0 if warm else 1
    for _ in range(repeats + skipped):
        for action, own in zip(actions, times):
            _finish(device)
            started = time.perf_counter()
            action()
            _finish(device)
            own.append(time.perf_counter() - started)
    return [statistics.median(own[skipped:]) for own in times]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _machine(engine: Engine) -> dict[str, Any]:
    cuda = engine.device.type == "cuda"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "memory": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name(engine.device) if cuda else None,
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


def llama_240m() -> LlamaConfig:
    """A Llama of 238M parameters, on which merging is measured."""
    return LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def _synthetic_family(root: Path, config: PretrainedConfig, dtype: str) -> Family:
    kinds = {"rm": True, "math": False, "code": False}
    for seed, (name, head) in enumerate(kinds.items()):
        write_synthetic(root / name, config, seed, head, dtype_named(dtype))
    lms = {"math": root / "math", "code": root / "code"}
    return Family.of(root / "rm", lms, name="synthetic")


def write_synthetic(
    folder: Path,
    config: PretrainedConfig,
    seed: int,
    head: bool,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a checkpoint of random weights in the layout of a real one, tensor by tensor.

    Its tokenizer has a token for each word `w6`, `w7`, … that the vocabulary has room for.

    Args:
        head: a reward model (one label) if true, else a causal LM.
    """
    folder.mkdir(parents=True)
    config = deepcopy(config)
    config.dtype, config.num_labels = dtype, 1
    kind = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}

    def random(name: str) -> Iterator[torch.Tensor]:
        shape = shapes[name]
        if len(shape) == 1:
            yield torch.ones(shape, dtype=dtype)  # norms, which scale
        else:
            yield torch.randn(shape, generator=generator).mul_(0.02).to(dtype)

    write_weights(folder, shapes, dtype, random)
    _synthetic_tokenizer(config.vocab_size).save_pretrained(folder)
    return folder


def _synthetic_tokenizer(size: int) -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), size))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )
    fast.chat_template = TEMPLATE
    return fast
