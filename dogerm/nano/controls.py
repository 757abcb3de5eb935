"""The paper's baselines and our controls: what a gain has to be compared with."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
)

from dogerm.errors import InputError
from dogerm.nano.fit import Schedule, stage_bars
from dogerm.nano.model import Encoder, attention, load_lm, save_model
from dogerm.nano.train import (
    DOMAINS,
    own_attempts,
    preset_of,
    train_domain_lm,
    train_on_pairs,
)

PAIR_BUDGET = 2000
PAIR_SCHEDULE = Schedule(steps=150, batch=32, rate=2e-4, warm_up=30)
CARD = (
    "A baseline or control of `python -m dogerm nano report`; no part of the family.\n"
)


def read_training(directory: Path) -> dict:
    """What train_family wrote down about a family: its preset and seed."""
    path = directory / "training.json"
    if not path.is_file():
        raise InputError(
            f"{directory} holds no trained family (training.json is missing)."
            " Run: python -m dogerm nano train --out DIR."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def make_controls(directory: Path, training: Mapping, shuffled: bool) -> None:
    """Train or draw what controls/ lacks."""
    controls, seed = directory / "controls", training["seed"]
    preset = preset_of(training["preset"])
    tokenizer = AutoTokenizer.from_pretrained(directory / "base")
    encoder = Encoder(tokenizer)
    for domain in DOMAINS:
        folder = controls / f"perturbed_{domain}"
        if not (folder / "config.json").exists():
            save_model(perturbed(directory, domain, seed), tokenizer, folder, CARD)
    with stage_bars() as bars:
        for domain in DOMAINS:
            folder = controls / f"{domain}_pairs"
            if not (folder / "config.json").exists():
                rm = AutoModelForSequenceClassification.from_pretrained(
                    directory / "rm",
                    dtype=torch.float32,
                    attn_implementation=attention(),
                )
                train_on_pairs(
                    rm, encoder, preset, PAIR_SCHEDULE, domain, PAIR_BUDGET, seed, bars
                )
                save_model(rm, tokenizer, folder, CARD)
        folder = controls / "math_shuffled"
        if shuffled and not (folder / "config.json").exists():
            base = load_lm(directory / "base")
            attempts = own_attempts(base, encoder, preset, seed)
            lm = train_domain_lm(
                base, encoder, preset, seed, "math", bars, attempts, shuffled=True
            )
            save_model(lm, tokenizer, folder, CARD)


def perturbed(directory: Path, domain: str, seed: int) -> LlamaForCausalLM:
    """The base moved as far as the domain LM, tensor by tensor, in a random direction."""
    base, lm = load_lm(directory / "base"), load_lm(directory / domain)
    generator = torch.Generator().manual_seed(seed)
    there = dict(lm.named_parameters())
    with torch.no_grad():
        for name, weight in base.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight += noise * (there[name] - weight).norm() / noise.norm()
    return base
