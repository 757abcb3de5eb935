"""Train a family from scratch: tokenizer, base LM, reward model, math LM and code LM."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import torch
from rich.progress import Progress
from transformers import LlamaForCausalLM, LlamaForSequenceClassification
from transformers.utils.logging import disable_progress_bar

from dogerm.errors import InputError
from dogerm.nano.arithmetic import answer_of
from dogerm.nano.cards import card_of
from dogerm.nano.corpus import Document, Reader, draw_document, draw_domain, draw_pair
from dogerm.nano.fit import (
    Schedule,
    adamw,
    batches,
    encode_document,
    fit,
    fit_preferences,
    lm_loss,
    stage_bars,
)
from dogerm.nano.model import (
    Encoder,
    Size,
    load_lm,
    new_lm,
    reward_model_from,
    sample,
    save_model,
    train_tokenizer,
)
from dogerm.nano.pair import Pair

BASE_MIX = {"chat": 0.46, "safety": 0.14, "math": 0.20, "code": 0.20}
BASE_READER = Reader(
    reacts={"chat": 0.9, "safety": 0.9, "math": 0.5, "code": 0.5},
    careless={"math": 0.2, "code": 0.2},
)
RM_MIX = {"chat": 0.62, "safety": 0.18, "math": 0.10, "code": 0.10}
RM_FLIPPED = {"chat": 0.03, "math": 0.15, "code": 0.15}
RM_EASY = 0.3
LM_REACTS = 0.9
ATTEMPTS = 4  # sampled answers a problem
OWN_ATTEMPTS = 0.5  # the share of the math LM's math that they are
DOMAINS = ("math", "code")


@dataclass(frozen=True)
class Preset:
    """Everything that decides a family besides its seed.

    problems: how many math problems the base attempts, to have its answers graded.
    replay: share of the base's mixture in a domain LM's text, against forgetting.
    """

    size: Size
    base: Schedule
    rm: Schedule
    lms: dict[str, Schedule]
    problems: int
    rm_head_rate: float = 1e-3
    rm_head_std: float = 0.0
    replay: float = 0.25


PRESETS = {
    "cpu": Preset(
        size=Size(192, 5, 6, 512),
        base=Schedule(1500, 64, 1.5e-3),
        rm=Schedule(200, 32, 3e-4, 30),
        lms={"math": Schedule(2500, 64, 1e-3), "code": Schedule(2500, 64, 1e-3)},
        problems=4000,
    ),
    "gpu": Preset(
        size=Size(256, 6, 8, 704),
        base=Schedule(4000, 128, 1.5e-3),
        rm=Schedule(300, 32, 3e-4, 30),
        lms={"math": Schedule(6000, 128, 8e-4), "code": Schedule(4000, 128, 8e-4)},
        problems=8000,
    ),
    # Seconds, not minutes: shows that the machinery works and teaches the models little.
    "tiny": Preset(
        size=Size(32, 2, 2, 64),
        base=Schedule(6, 8, 2e-3, 2),
        rm=Schedule(4, 4, 1e-3, 2),
        lms={"math": Schedule(4, 8, 1e-3, 2), "code": Schedule(4, 8, 1e-3, 2)},
        problems=8,
    ),
}


def train_family(
    out: Path,
    seed: int,
    preset: str = "cpu",
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Write a family to out: base/, rm/, math/ and code/, each an ordinary Hugging Face folder.

    The same seed, preset, device and threads give the same files.

    Args:
        out: the family's folder; files already there are overwritten.
        seed: decides texts and initial weights.
        preset: a name of PRESETS.
        device: "cpu", "cuda", or "auto" for the GPU when there is one.
        threads: CPU threads; None leaves torch's own choice.

    Raises:
        InputError: there is no such preset.
    """
    chosen = preset_of(preset)
    disable_progress_bar()  # transformers' own, which would break ours
    if threads:
        torch.set_num_threads(threads)
    where = torch.device(device_of(device))
    tokenizer = train_tokenizer(
        0, chosen.size.vocabulary
    )  # one vocabulary for every seed
    encoder = Encoder(tokenizer)
    with stage_bars() as bars:
        lm = new_lm(chosen.size, tokenizer, seed).to(where)
        train_base(lm, encoder, chosen, seed, bars)
        save_model(lm, tokenizer, out / "base", card_of("base", preset, seed))
        # The others start from the base as saved, so that it is exactly their parent.
        base = load_lm(out / "base", where)
        rm = train_rm(base, encoder, chosen, seed, bars)
        save_model(rm, tokenizer, out / "rm", card_of("rm", preset, seed))
        attempts = {"math": own_attempts(base, encoder, chosen, seed)}
        for domain in DOMAINS:
            lm = train_domain_lm(
                base, encoder, chosen, seed, domain, bars, attempts.get(domain, ())
            )
            save_model(lm, tokenizer, out / domain, card_of(domain, preset, seed))
    settings = {"preset": preset, "seed": seed, **asdict(chosen)}
    (out / "training.json").write_text(json.dumps(settings, indent=2) + "\n")


def preset_of(name: str) -> Preset:
    """The preset of that name."""
    if name not in PRESETS:
        raise InputError(
            f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}."
        )
    return PRESETS[name]


def device_of(name: str) -> str:
    """The device meant by "auto", "cpu" or "cuda"."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


# Stages


def train_base(
    lm: LlamaForCausalLM, encoder: Encoder, preset: Preset, seed: int, bars: Progress
) -> LlamaForCausalLM:
    """Teach a random LM to write all four domains, and readers' reactions to the answers."""
    rng = Random(f"base {seed}")

    def draw() -> Document:
        return draw_document(
            draw_pair(draw_domain(BASE_MIX, rng), rng), rng, BASE_READER
        )

    rows = batches(rng, preset.base.batch, draw, partial(encode_document, encoder))
    fit(
        lm,
        adamw(lm, preset.base.rate),
        rows,
        lm_loss(lm, encoder),
        preset.base,
        bars,
        "base LM",
    )
    return lm


def train_rm(
    base: LlamaForCausalLM, encoder: Encoder, preset: Preset, seed: int, bars: Progress
) -> LlamaForSequenceClassification:
    """Fine-tune the base into a general reward model: Bradley-Terry, mostly on chat and safety.

    Math and code are a fifth of the pairs, some labelled wrongly and some easy,
    as in public preference data, so that the domain knowledge is left to the LMs.
    """
    rng = Random(f"rm {seed}")

    def draw() -> tuple[str, str, str]:
        domain = draw_domain(RM_MIX, rng)
        pair = draw_pair(domain, rng)
        chosen, rejected = pair.chosen, pair.rejected
        if domain in DOMAINS and rng.random() < RM_EASY:
            rejected = draw_pair(rng.choice(("chat", domain)), rng).chosen
        if rng.random() < RM_FLIPPED.get(domain, 0.0):
            chosen, rejected = rejected, chosen
        return pair.prompt, chosen, rejected

    rm = reward_model_from(base, seed, preset.rm_head_std)
    fit_preferences(
        rm, encoder, preset.rm, preset.rm_head_rate, draw, rng, bars, "reward model"
    )
    return rm


def train_on_pairs(
    rm: LlamaForSequenceClassification,
    encoder: Encoder,
    preset: Preset,
    schedule: Schedule,
    domain: str,
    count: int,
    seed: int,
    bars: Progress,
) -> None:
    """The paper's baseline: fine-tune the reward model further on count pairs of one domain."""
    rng = Random(f"pairs {domain} {seed}")
    pairs = [draw_pair(domain, rng) for _ in range(count)]

    def draw() -> tuple[str, str, str]:
        pair = rng.choice(pairs)
        return pair.prompt, pair.chosen, pair.rejected

    name = f"reward model on {domain} pairs"
    fit_preferences(rm, encoder, schedule, preset.rm_head_rate, draw, rng, bars, name)


def own_attempts(
    base: LlamaForCausalLM, encoder: Encoder, preset: Preset, seed: int
) -> list[Pair]:
    """The base's own wrong answers to training problems in math, beside right ones.

    Best-of-n asks a reward model to see the slips that a model makes, of which the
    generator's flaws are a few kinds. An attempt is wrong when it does not end in
    the right number. Right answers are the generator's, so that no problem is
    graded wrong more often than right.
    """
    rng = Random(f"attempts {seed}")
    problems = [draw_pair("math", rng) for _ in range(preset.problems)]
    prompts = [pair.prompt for pair in problems]
    answers = sample(base, encoder, prompts, ATTEMPTS, seed)
    return [
        replace(pair, rejected=attempt, flaw="own attempt")
        for pair, attempts in zip(problems, answers, strict=True)
        for attempt in attempts
        if answer_of(attempt) != pair.answer
    ]


def train_domain_lm(
    base: LlamaForCausalLM,
    encoder: Encoder,
    preset: Preset,
    seed: int,
    domain: str,
    bars: Progress,
    attempts: Sequence[Pair] = (),
    shuffled: bool = False,
) -> LlamaForCausalLM:
    """Fine-tune the base on `graded_text`, with a loss on right answers and on reactions.

    A wrong answer's words carry none: the LM learns to judge wrong answers, not to
    write them.
    """
    rng = Random(f"{domain} {seed}")
    draw = graded_text(domain, preset.replay, rng, attempts, shuffled)
    lm, schedule = deepcopy(base), preset.lms[domain]
    encode = partial(encode_document, encoder, answers_only=True)
    rows = batches(rng, schedule.batch, draw, encode)
    name = f"{domain} LM{', shuffled grades' if shuffled else ''}"
    fit(
        lm,
        adamw(lm, schedule.rate),
        rows,
        lm_loss(lm, encoder),
        schedule,
        bars,
        name,
    )
    return lm


def graded_text(
    domain: str,
    replay: float,
    rng: Random,
    attempts: Sequence[Pair] = (),
    shuffled: bool = False,
) -> Callable[[], Document]:
    """Draws graded solutions of one domain, with some of the base's own mixture replayed.

    Args:
        replay: the share of that mixture.
        attempts: pairs that stand in for half of the domain's generated ones.
        shuffled: a control: reactions to this domain are random.
    """
    others = {name: share for name, share in BASE_MIX.items() if name != domain}
    scale = replay / sum(others.values())
    mix = {domain: 1 - replay} | {name: scale * share for name, share in others.items()}
    careless = {
        name: share for name, share in BASE_READER.careless.items() if name != domain
    }
    if shuffled:
        careless[domain] = 1.0
    reader = Reader({**BASE_READER.reacts, domain: LM_REACTS}, careless)

    def draw() -> Document:
        drawn = draw_domain(mix, rng)
        own = drawn == domain and attempts and rng.random() < OWN_ATTEMPTS
        pair = rng.choice(attempts) if own else draw_pair(drawn, rng)
        return draw_document(pair, rng, reader)

    return draw
