"""One λ the way of the paper's repository, which runs two programs for it: merge, then score.

Written from that description; none of the repository's code is used. Run apart, as its
shell loop does, so that each program starts, imports and loads anew. Prints {"times":
{step: seconds, …}} and, of the second, "rewards". The settings, one JSON argument, are
those of `dogerm.peers.against_reference`. Where it differs: parameters are matched by
name, not by position, and the vocabularies must be the same.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

TIMES: dict[str, float] = {}


@contextmanager
def timed(step: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    TIMES[step] = time.perf_counter() - started


def classifier(folder: str, dtype: torch.dtype) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)


@torch.no_grad()
def merge(settings: dict) -> None:
    """Both models in float32 on the CPU; the merged one is saved in float32."""
    lam = settings["lam"]
    with timed("load"):
        rm = classifier(settings["rm"], torch.float32)
        lm = AutoModelForCausalLM.from_pretrained(settings["lm"], dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(settings["rm"])
        vocabulary = AutoTokenizer.from_pretrained(settings["lm"]).get_vocab()
    with timed("merge"):
        theirs = dict(lm.named_parameters())
        table = rm.get_input_embeddings().weight
        for name, weight in rm.named_parameters():
            if weight is table:
                merge_tokens(table, theirs[name], tokenizer, vocabulary, lam)
            elif name in theirs:
                weight.copy_((1 - lam) * weight + lam * theirs[name])
    with timed("save"):
        rm.save_pretrained(settings["out"])
        tokenizer.save_pretrained(settings["out"])


def merge_tokens(ours, theirs, tokenizer, vocabulary, lam) -> None:
    """Row after row of the embedding, by the token's string."""
    own = tokenizer.get_vocab()
    for token, index in vocabulary.items():
        if own[token] != index:
            raise SystemExit(f"the vocabularies differ at {token!r}")
        ours[index] = (1 - lam) * ours[index] + lam * theirs[index]


@torch.inference_mode()
def score(settings: dict) -> list[float]:
    """Rewards by the saved model, in float16."""
    device = settings["device"]
    with timed("load again"):
        model = classifier(settings["out"], torch.float16).to(device).eval()
    with timed("score"):
        return [
            model(torch.tensor([ids], device=device)).logits.item()
            for ids in settings["sequences"]
        ]


if __name__ == "__main__":
    program, given = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(given["threads"])
    found = {"merge": merge, "score": score}[program](given)
    print(json.dumps({"times": TIMES, "rewards": found}))
