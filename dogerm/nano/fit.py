"""How one stage is trained: schedules, batches, losses, optimizers, progress bars."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import torch
import torch.nn.functional as F
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from dogerm.nano.corpus import Document
from dogerm.nano.model import IGNORED, Encoder, batch_rewards, pad

Drawn = TypeVar("Drawn")
Row = TypeVar("Row")

POOL = 40  # batches drawn at a time and sorted by length, so that little is padded


@dataclass(frozen=True)
class Schedule:
    """How long and how fast one stage trains: cosine from rate to a twentieth of it."""

    steps: int
    batch: int
    rate: float
    warm_up: int = 50

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at a step."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return min(1.0, (step + 1) / self.warm_up) * (0.05 + 0.95 * cosine)


def stage_bars() -> Progress:
    """Progress bars, one a stage."""
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


@dataclass(frozen=True)
class Labelled:
    """Tokens of one document, and which of them are learned as text or as reaction."""

    ids: list[int]
    text: list[int]
    reaction: list[int]


def encode_document(
    encoder: Encoder, document: Document, answers_only: bool = False
) -> Labelled:
    """Tokens and labels of a document.

    With answers_only the prompt is not learned, nor are the words of a wrong answer.
    """
    prompt, answer = encoder.prompt(document.prompt), encoder.answer(document.answer)
    close = [encoder.id("</s>")]
    words = prompt + answer
    learned = words
    if answers_only:
        shown = answer if document.right else [IGNORED] * len(answer)
        learned = [IGNORED] * len(prompt) + shown
    if document.reaction is None:
        return Labelled(words + close, learned + close, [IGNORED] * (len(words) + 1))
    said = encoder.text(document.reaction) + close
    return Labelled(
        words + said, learned + [IGNORED] * len(said), [IGNORED] * len(words) + said
    )


def batches(
    rng: Random, size: int, draw: Callable[[], Drawn], encode: Callable[[Drawn], Row]
) -> Iterator[list[Row]]:
    """Batches without end, each of rows of about one length."""
    while True:
        rows = sorted((encode(draw()) for _ in range(size * POOL)), key=_length)
        pool = [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(pool)
        yield from pool


def _length(row: Labelled | list[list[int]]) -> int:
    return len(row.ids) if isinstance(row, Labelled) else sum(map(len, row))


def lm_loss(
    lm: LlamaForCausalLM, encoder: Encoder
) -> Callable[[list[Labelled]], Tensor]:
    """Mean loss over text tokens plus mean loss over reaction tokens.

    Reactions are a few tokens in a hundred; counted apart they weigh as much as
    the text. That was the largest single gain in the accuracy of the grades.
    """

    def loss(rows: list[Labelled]) -> Tensor:
        ids = pad([row.ids for row in rows], encoder.id("<pad>"), lm.device)
        hidden = lm.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        total = hidden.new_zeros((), dtype=torch.float32)
        for labels in ([row.text for row in rows], [row.reaction for row in rows]):
            wanted = pad(labels, IGNORED, lm.device)[:, 1:]
            learned = wanted != IGNORED
            if learned.any():
                logits = lm.lm_head(hidden[learned]).float()
                total = total + F.cross_entropy(logits, wanted[learned])
        return total

    return loss


def fit_preferences(
    rm: LlamaForSequenceClassification,
    encoder: Encoder,
    schedule: Schedule,
    head_rate: float,
    draw: Callable[[], tuple[str, str, str]],
    rng: Random,
    bars: Progress,
    name: str,
) -> None:
    """Bradley-Terry on (prompt, chosen, rejected) triples."""

    def encode(texts: tuple[str, str, str]) -> list[list[int]]:
        prompt, *answers = texts
        return [encoder.conversation(prompt, answer) for answer in answers]

    def loss(rows: list[list[list[int]]]) -> Tensor:
        both = [answer for answers in rows for answer in answers]
        chosen, rejected = batch_rewards(rm, encoder, both).view(-1, 2).unbind(1)
        return -F.logsigmoid(chosen - rejected).mean()

    groups = [
        {"params": list(rm.model.parameters()), "lr": schedule.rate},
        {"params": list(rm.score.parameters()), "lr": head_rate},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    rows = batches(rng, schedule.batch, draw, encode)
    fit(rm, [optimizer], rows, loss, schedule, bars, name)


def adamw(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW for all weights.

    Muon inside the layers lowers the loss in half the steps, but what it fine-tunes
    goes so far (0.42 of the weights' norm) that halfway merges gain nothing.
    """
    weights = model.parameters()
    return [torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)]


def fit(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    rows: Iterator[list[Row]],
    loss_of: Callable[[list[Row]], Tensor],
    schedule: Schedule,
    bars: Progress,
    name: str,
) -> None:
    """One stage of training, in bfloat16 arithmetic on float32 weights."""
    device = next(model.parameters()).device.type
    task = bars.add_task(name, total=schedule.steps, loss=math.nan)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    model.train()
    for step in range(schedule.steps):
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * schedule.factor(step)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_of(next(rows))
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        bars.update(task, advance=1, loss=loss.item())
    model.eval()
