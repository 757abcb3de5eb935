"""Token by token: every prefix scored alone, by transformers' own model, gives the same rewards."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from dogerm.errors import InputError
from dogerm.recipe import Recipe
from dogerm.scoring import answer_start, score, tokenise
from dogerm.tokens import Reading, _parting, read_tokens

PROMPT = "What is the capital of France?"
ANSWERS = ["Paris.", "Lyon, 北京 🙂"]
RECIPE = Recipe(0.4, {"math": 1})
CLOSE = 1e-5  # padding and caches change the order of float32 sums


def test_every_value_is_the_reward_of_that_prefix(engine, folders):
    model = AutoModelForSequenceClassification.from_pretrained(
        folders["rm"], dtype=torch.float32
    ).eval()
    found = read_tokens(engine, PROMPT, ANSWERS, RECIPE)
    for ids, reading in zip(
        tokenise(engine, PROMPT, ANSWERS).sequences, found.responses, strict=True
    ):
        start = answer_start(engine, PROMPT, ids)
        with torch.no_grad():
            wanted = [
                model(torch.tensor([ids[: end + 1]])).logits[0, 0].item()
                for end in range(start, len(ids))
            ]
        assert reading.base == pytest.approx(wanted, abs=CLOSE)


def test_the_last_value_is_the_reward_of_the_response(engine):
    found = read_tokens(engine, PROMPT, ANSWERS, RECIPE)
    for lam, side in ((0, "base"), (0.4, "merged")):
        rewards = score(engine, RECIPE.with_lam(lam), [(PROMPT, ANSWERS)])[0]
        last = [getattr(reading, side)[-1] for reading in found.responses]
        assert last == pytest.approx(rewards, abs=CLOSE)


def test_the_pieces_are_the_answer_and_nothing_of_the_prompt(engine):
    for answer, reading in zip(
        ANSWERS, read_tokens(engine, PROMPT, ANSWERS, RECIPE).responses, strict=True
    ):
        assert "".join(reading.pieces) == f"<|assistant|>{answer}<|end|>"
        assert len(reading.pieces) == len(reading.base) == len(reading.merged)


def reading(base, merged):
    return Reading(("x",) * len(base), tuple(base), tuple(merged))


def test_models_part_where_their_leaders_differ_until_the_end():
    # Base leads with the first throughout; the merged model turns at the third token,
    # after a moment at the first token that does not last.
    first = reading([1, 1, 1, 1], [0, 1, 0, 0])
    second = reading([0, 0, 0, 0], [1, 0, 1, 1])
    assert _parting([first, second]) == (2, (0, 1))


def test_a_short_response_keeps_its_last_reward():
    short, long = reading([3], [3]), reading([1, 2, 4], [1, 2, 2])
    assert _parting([short, long]) == (2, (1, 0))


def test_models_that_end_with_the_same_response_do_not_part():
    assert _parting([reading([0, 1], [1, 1]), reading([1, 0], [0, 0])]) == (None, None)


def test_one_response_is_no_comparison(engine):
    with pytest.raises(InputError, match="two responses"):
        read_tokens(engine, PROMPT, ["alone"], RECIPE)
