"""The embedded family through every benchmark whose rows it can read, from file to report.

HumanEval's docstrings are beyond its vocabulary of small Python; the others have rows in
the words of its own generators, held-out split.
"""

import json
from random import Random

import pytest
from typer.testing import CliRunner

from dogerm.cli import app
from dogerm.family import ASSETS
from dogerm.nano.corpus import distinct_pairs
from dogerm.nano.pairs import write_candidates, write_pairs
from dogerm.nano.programs import NUMBER_LISTS, NUMBERS, behaviour

N = 12


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Runs a benchmark on rows at λ 0 and 0.8; gives its report and the rows' file."""
    root = tmp_path_factory.mktemp("bench")

    def run(name: str, rows: list[dict], *options: str) -> dict:
        folder = root / name
        folder.mkdir()
        data = folder / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = folder / "out"
        recipe = "--lam=0,0.8", "--share=math=1", "--share=code=1"
        arguments = ["bench", name, f"--data={data}", f"--out={out}", *recipe]
        done = CliRunner().invoke(app, [*arguments, "--device=cpu", *options])
        assert done.exit_code == 0, done.output
        report = json.loads((out / "report.json").read_text())
        scored = [json.loads(t) for t in (out / "rows.jsonl").read_text().splitlines()]
        html = (out / "report.html").read_text()
        return {"report": report, "rows": scored, "html": html}

    return run


def metrics(found: dict, lam: float) -> dict:
    (point,) = [p for p in found["report"]["recipes"] if p["lam"] == lam]
    return point["metrics"]


def share_won(found: dict, place: int) -> float:
    """Pairs whose chosen response is strictly above, counted from the stored rewards."""
    rewards = [row["rewards"][place] for row in found["rows"]]
    return sum(chosen > rejected for chosen, rejected in rewards) / len(rewards)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("pairs")
    found = {}
    for domain in ("math", "code"):
        write_pairs(domain, 7, N, folder / domain)
        found[domain] = [json.loads(t) for t in (folder / domain).open()]
    return found


def test_pairs(bench, pairs):
    found = bench("pairs", pairs["math"] + pairs["code"])
    for place, lam in enumerate((0, 0.8)):
        own = metrics(found, lam)
        assert own["Overall"]["accuracy"] == share_won(found, place)
        assert own["math"]["n"] == own["code"]["n"] == N


def test_autoj(bench, pairs):
    rows = [
        {
            "scenario": scenario,
            "label": label,
            "prompt": pair["prompt"],
            "response 1": pair["chosen" if label == 0 else "rejected"],
            "response 2": pair["rejected" if label == 0 else "chosen"],
        }
        for scenario, domain in (
            ("math_reasoning", "math"),
            ("code_generation", "code"),
        )
        for label, pair in zip([0, 1, 2] * N, pairs[domain])
    ]
    found = bench("autoj", rows)
    own = metrics(found, 0.8)
    assert own["Math"]["n"] == own["Code"]["n"] == N * 2 // 3
    assert own["Others"]["accuracy"] is None
    assert own["Overall"]["accuracy"] == share_won(found, 1)


def test_rewardbench(bench, pairs):
    rows = [
        {key: pair[key] for key in ("prompt", "chosen", "rejected")}
        | {"subset": subset}
        for subset, domain in (("math-prm", "math"), ("hep-python", "code"))
        for pair in pairs[domain]
    ]
    own = metrics(bench("rewardbench", rows), 0.8)
    assert own["math-prm"]["n"] == own["hep-python"]["n"] == N
    by_hand = (
        984 * own["math-prm"]["accuracy"] + 164 * own["hep-python"]["accuracy"]
    ) / (984 + 164)
    assert own["Reasoning"]["accuracy"] == pytest.approx(by_hand)
    assert own["Chat"]["accuracy"] is None


def test_rewardbench2(bench, pairs):
    wrong = [pair["rejected"] for pair in pairs["math"]]
    rows = [
        {
            "id": str(i),
            "subset": "Math",
            "prompt": pair["prompt"],
            "chosen": [pair["chosen"]],
            "rejected": [pair["rejected"], wrong[i - 1], wrong[i - 2]],
        }
        for i, pair in enumerate(pairs["math"])
    ]
    found = bench("rewardbench2", rows)
    rewards = [row["rewards"][1] for row in found["rows"]]
    firsts = sum(own[0] == max(own) and own.count(max(own)) == 1 for own in rewards)
    assert metrics(found, 0.8)["Math"]["accuracy"] == pytest.approx(firsts / N)


def test_gsm8k(bench, tmp_path):
    path = tmp_path / "candidates"
    write_candidates(ASSETS / "nano", 3, 6, path, count=16)
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    found = bench("gsm8k", rows, "--preset=corrected")
    own = metrics(found, 0.8)
    assert [row["correct"] for row in found["rows"]] == [row["correct"] for row in rows]
    picks = [max(range(16), key=r["rewards"][1].__getitem__) for r in found["rows"]]
    wins = sum(row["correct"][pick] for row, pick in zip(rows, picks))
    assert own["best-of-16"]["accuracy"] == wins / 6
    assert own["best-of-1"]["accuracy"] == sum(r["correct"][0] for r in rows) / 6
    assert "Best of N against N; λ: oracle" in found["html"]
    assert own["oracle"]["accuracy"] == sum(any(r["correct"]) for r in rows) / 6


def test_gsm8k_with_candidates_sampled_on_the_way(tmp_path):
    problems, out = tmp_path / "problems.jsonl", tmp_path / "out"
    question = "Sam packs 17 cards in boxes of 6. How many boxes are needed?"
    rows = [{"question": question, "answer": 3}] * 2
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*options: str):
        how = [f"--generate={ASSETS / 'nano' / 'base'}", "--sample=max_tokens=24"]
        how += ["--sample=system=", "--sample=prefix=", "--ns=1,2", "--lam=0,1"]
        where = [f"--data={problems}", f"--out={out}", "--device=cpu"]
        return CliRunner().invoke(app, ["bench", "gsm8k", *where, *how, *options])

    done = run()
    assert done.exit_code == 0, done.output
    made = (out / "candidates.jsonl").read_bytes()
    assert b'"max_tokens": 24' in made and b'"temperature": 1.0' in made
    report = json.loads((out / "report.json").read_text())
    assert report["recipes"][0]["metrics"]["best-of-2"]["n"] == 2
    # Stopped while sampling, before there was a store.
    for file in out.iterdir():
        file.unlink()
    (out / "candidates.jsonl").write_bytes(made[:-50])
    done = run()
    assert done.exit_code == 1 and "already there" in done.stderr
    done = run("--resume")
    assert done.exit_code == 0, done.output
    assert (out / "candidates.jsonl").read_bytes() == made
    assert json.loads((out / "report.json").read_text()) == report
    for wrong in ("--sample=heat=2", "--sample=temperature=hot"):
        assert run(wrong).exit_code == 2


CHECK = """
def check(candidate):
    def outcome(value):
        try:
            return repr(candidate(value))
        except Exception as error:
            return type(error).__name__
    assert [outcome(value) for value in {inputs!r}] == {expected!r}
"""


def test_mbpp(bench):
    rows = []
    for place, pair in enumerate(distinct_pairs("code", Random(5), "test", 8)):
        expected = behaviour(pair.chosen)
        inputs = NUMBERS if len(expected) == len(NUMBERS) else NUMBER_LISTS
        rows.append(
            {
                "task_id": f"nano/{place}",
                "entry_point": pair.chosen.removeprefix("def ").partition("(")[0],
                "prompt": pair.prompt,
                "test": CHECK.format(inputs=inputs, expected=expected),
                "candidates": [pair.rejected, pair.chosen],
            }
        )
    found = bench("mbpp", rows, "--ns=1,2", "--allow-code-execution")
    assert [row["correct"] for row in found["rows"]] == [[False, True]] * 8
    own = metrics(found, 0.8)
    assert own["best-of-1"]["accuracy"] == 0 and own["oracle"]["accuracy"] == 1
    assert own["best-of-2"]["accuracy"] == sum(
        row["rewards"][1][1] > row["rewards"][1][0] for row in found["rows"]
    ) / len(rows)
