"""Candidates sampled from the embedded family's base LM: seeded, and resumed to the same bytes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dogerm.benchmarks.benchmark import BENCHMARKS
from dogerm.benchmarks.data import Settings
from dogerm.benchmarks.generate import SAMPLING, Sampling, generate
from dogerm.errors import CheckpointError, InputError
from dogerm.family import ASSETS

BASE = ASSETS / "nano" / "base"
HOW = Sampling(n=4, max_tokens=48, together=2)
QUESTIONS = (
    "Sam packs 17 cards in boxes of 6. How many boxes are needed?",
    "A shop has 18 stamps. It buys 9 and sells 8. How many stamps now?",
    "Zoe has 4 boxes with 5 books each and loses 4. How many books are left?",
)


@pytest.fixture
def problems(tmp_path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [{"question": q, "answer": a} for q, a in zip(QUESTIONS, (3, 19, 16))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_is_generated_is_read_as_candidates(problems, tmp_path):
    out, seen = tmp_path / "c.jsonl", []
    generate(
        "gsm8k", problems, BASE, out, HOW, on_progress=lambda *done: seen.append(done)
    )
    assert seen == [(0, 3), (2, 3), (3, 3)]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["question"] for line in lines] == list(QUESTIONS)
    for line in lines:
        assert len(line["candidates"]) == 4 and len(set(line["candidates"])) > 1
        assert all("<|" not in text and text for text in line["candidates"])
        assert line["generated"]["seed"] == 0 and line["prefix"] == ""
    # The base LM knows such problems: its answers are steps and a number.
    assert any("Answer:" in text for line in lines for text in line["candidates"])
    settings = Settings(data=out, ns=(1, 2, 4), preset="corrected")
    assert len(BENCHMARKS["gsm8k"].read(settings).rows) == 3


def test_a_stopped_run_goes_on_to_the_same_bytes(problems, tmp_path):
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    generate("gsm8k", problems, BASE, whole, HOW)
    text = whole.read_bytes()
    for cut in (0, 40, text.index(b"\n") + 1, len(text) - 1):
        stopped.write_bytes(text[:cut])
        generate("gsm8k", problems, BASE, stopped, HOW, resume=True)
        assert stopped.read_bytes() == text
    other = tmp_path / "other.jsonl"
    generate("gsm8k", problems, BASE, other, replace(HOW, seed=1))
    ours, theirs = (
        [json.loads(line)["candidates"] for line in path.read_text().splitlines()]
        for path in (whole, other)
    )
    assert ours != theirs


def test_a_file_made_otherwise_is_not_gone_on_with(problems, tmp_path):
    out = tmp_path / "c.jsonl"
    generate("gsm8k", problems, BASE, out, HOW)
    with pytest.raises(InputError, match="already there"):
        generate("gsm8k", problems, BASE, out, HOW)
    with pytest.raises(InputError, match="line 1 of c.jsonl.*seed differ"):
        generate("gsm8k", problems, BASE, out, replace(HOW, seed=1), resume=True)


def test_a_prefix_begins_the_answer_and_is_no_part_of_a_candidate(problems, tmp_path):
    out = tmp_path / "c.jsonl"
    how = replace(HOW, prefix="Step 1: ", stops=("\n",))
    generate("gsm8k", problems, BASE, out, how)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    texts = [text for line in lines for text in line["candidates"]]
    assert not any(text.startswith("Step") or "\n" in text for text in texts)
    assert {line["prefix"] for line in lines} == {"Step 1: "}
    settings = Settings(data=out, ns=(4,), preset="corrected")
    row = BENCHMARKS["gsm8k"].read(settings).rows[0]
    assert row.responses[0].startswith("Step 1: ")


def test_what_cannot_be_generated_says_why(problems, tmp_path):
    out = tmp_path / "c.jsonl"
    with pytest.raises(InputError, match="temperature above 0"):
        Sampling(temperature=0)
    with pytest.raises(InputError, match="reads at most 512"):
        generate("gsm8k", problems, BASE, out, replace(HOW, system="x" * 2000))
    with pytest.raises(CheckpointError):
        generate("gsm8k", problems, tmp_path, out, HOW, resume=True)
    problems.write_text('{"answer": 1}\n')
    with pytest.raises(
        InputError, match="line 1 of problems.jsonl: question or prompt"
    ):
        generate("gsm8k", problems, BASE, tmp_path / "d.jsonl", HOW)


def test_the_references_sampling_is_kept_by_benchmark():
    gsm8k, mbpp = SAMPLING["gsm8k"], SAMPLING["mbpp"]
    assert (gsm8k.temperature, gsm8k.top_p, gsm8k.max_tokens) == (1.0, 1.0, 512)
    assert gsm8k.prefix == " Let's think step by step."
    assert (mbpp.temperature, mbpp.top_p, mbpp.n) == (0.1, 0.95, 16)
