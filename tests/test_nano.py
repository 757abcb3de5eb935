"""The embedded family: its text is what it says, its files load anywhere, its claims hold."""

import json
import operator
import re
from itertools import count
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from dogerm.benchmarks.report import Metric
from dogerm.engine import Engine
from dogerm.errors import InputError
from dogerm.family import Family
from dogerm.nano.controls import perturbed
from dogerm.nano.corpus import (
    GENERATORS,
    Document,
    Reader,
    distinct_pairs,
    draw_document,
    draw_pair,
)
from dogerm.nano.fit import encode_document
from dogerm.nano.model import IGNORED, Encoder, batch_rewards, load_lm
from dogerm.nano.pair import Pair, split_of
from dogerm.nano.pairs import write_candidates, write_pairs
from dogerm.nano.report import Row, choose, combine
from dogerm.nano.train import PRESETS, graded_text, own_attempts, train_family
from dogerm.recipe import Recipe
from dogerm.scoring import score

SHIPPED = Path(__file__).parent.parent / "assets" / "nano"
MODELS = ("base", "rm", "math", "code")
WORDS = {
    "adds": operator.add,
    "subtracts": operator.sub,
    "multiplies by": operator.mul,
    "divides by": operator.floordiv,
    "plus": operator.add,
    "minus": operator.sub,
    "times": operator.mul,
    "divided by": operator.floordiv,
    "greater than": operator.gt,
    "less than": operator.lt,
    "at least": operator.ge,
    "at most": operator.le,
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    train_family(folder, seed=5, preset="tiny", device="cpu", threads=1)
    return folder


def draw(domain: str, count: int = 300, split: str = "test"):
    rng = Random(11)
    return [draw_pair(domain, rng, split) for _ in range(count)]


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# The text


@pytest.mark.parametrize("domain", GENERATORS)
def test_no_held_out_problem_or_prompt_is_trained_on(domain):
    trained = draw(domain, 3000, "train")
    for split in ("validation", "test"):
        held_out = draw(domain, 500, split)
        assert not {p.key for p in trained} & {p.key for p in held_out}
        assert not {p.prompt for p in trained} & {p.prompt for p in held_out}


def solve(prompt: str) -> int:
    """The answer to a math prompt, from its words alone."""
    numbers = [int(n) for n in re.findall(r"\d+", prompt)]
    if equation := re.search(r"(\d+)x([+-])(\d+)=(\d+)", prompt):
        a, sign, b, c = equation.groups()
        shift = int(b) if sign == "+" else -int(b)
        return next(x for x in range(100) if int(a) * x + shift == int(c))
    if "vans" in prompt or "boxes are needed" in prompt or "How many boxes" in prompt:
        count, size = max(numbers), min(numbers)
        return -(-count // size)
    if "each" in prompt or "bags" in prompt:
        more = "more" in prompt or "loose" in prompt
        return numbers[0] * numbers[1] + (numbers[2] if more else -numbers[2])
    return numbers[0] + numbers[1] - numbers[2]


def holds(line: str) -> bool:
    """Whether a step such as "3*7=21" or "17/5=3 rest 2" is true."""
    x, sign, y, result = re.fullmatch(r".*?(\d+)([-+*/])(\d+)=(.*)", line).groups()
    x, y = int(x), int(y)
    if "rest" in result:
        return [int(n) for n in result.split(" rest ")] == list(divmod(x, y))
    true = {"+": x + y, "-": x - y, "*": x * y, "/": x / y}[sign]
    return true == int(result)


def test_right_math_answers_are_true_in_every_step_and_wrong_ones_end_wrong():
    for pair in draw("math", 1000):
        *steps, last = pair.chosen.split("\n")
        assert all(holds(step) for step in steps), pair
        assert last == f"Answer: {solve(pair.prompt)}" == f"Answer: {pair.answer}", pair
        assert not pair.rejected.endswith(f"Answer: {pair.answer}"), pair
        assert re.search(r"\nAnswer: \d+$", pair.rejected), pair


def reference(prompt: str):
    """A function that does what a code prompt asks for, read from its words alone."""
    words = "|".join(WORDS)
    if asked := re.search(
        rf"takes \w+, ({words}) (\d+) and then ({words}) (\d+)", prompt
    ):
        first, k, second, m = asked.groups()
        return lambda v: WORDS[second](WORDS[first](v, int(k)), int(m))
    if asked := re.search(
        r"the (sum|product) .* from (\d+) to \w+, \w+ (in|ex)cluded", prompt
    ):
        kind, start, bound = asked.groups()

        def total(end: int) -> int:
            result = 0 if kind == "sum" else 1
            for i in range(int(start), end + (bound == "in")):
                result = result + i if kind == "sum" else result * i
            return result

        return total
    if asked := re.search(
        rf"(counts|returns) the items of \w+ that are ({words}) (\d+)", prompt
    ):
        verb, compare, limit = asked.groups()

        def keep(items: list[int]) -> int | list[int]:
            kept = [item for item in items if WORDS[compare](item, int(limit))]
            return len(kept) if verb == "counts" else kept

        return keep
    asked = re.search(
        rf"is ({words}) (\d+) return \w+ ({words}) (\d+), else return \w+ ({words}) (\d+)",
        prompt,
    )
    compare, limit, then, k, otherwise, m = asked.groups()

    def branch(v: int) -> int:
        if WORDS[compare](v, int(limit)):
            return WORDS[then](v, int(k))
        return WORDS[otherwise](v, int(m))

    return branch


def outcomes(function, takes_list: bool) -> list[str]:
    found = []
    for value in [[], [*range(-9, 70)]] if takes_list else range(-9, 60):
        try:
            found.append(repr(function(value)))
        except Exception as error:  # noqa: BLE001, any failure is an outcome
            found.append(type(error).__name__)
    return found


def test_right_code_does_what_was_asked_and_wrong_code_does_not():
    for pair in draw("code", 400):
        takes_list = "items of" in pair.prompt
        asked = outcomes(reference(pair.prompt), takes_list)
        for text, right in ((pair.chosen, True), (pair.rejected, False)):
            names: dict = {}
            exec(text, names)  # noqa: S102, code of our own generators
            function = next(
                value for name, value in names.items() if name != "__builtins__"
            )
            assert (outcomes(function, takes_list) == asked) is right, pair


def test_careful_readers_grade_by_truth_and_careless_ones_do_not():
    def agreement(careless: dict[str, float]) -> float:
        reader, rng = Reader({"math": 1.0}, careless), Random(3)
        documents = [
            draw_document(draw_pair("math", rng), rng, reader) for _ in range(400)
        ]
        praise = {"Correct.", "Right.", "Good."}
        return sum((d.reaction in praise) == d.right for d in documents) / 400

    assert agreement({}) == 1.0
    assert 0.4 < agreement({"math": 1.0}) < 0.6  # four standard errors around a half


def test_the_words_of_wrong_answers_are_not_learned_but_their_grade_is(family):
    encoder = Encoder(AutoTokenizer.from_pretrained(family / "base"))
    wrong = Document("math", "Solve 2x+1=7.", "Answer: 4", "Wrong.", right=False)
    labelled = encode_document(encoder, wrong, answers_only=True)
    said = encoder.text("Wrong.") + [encoder.id("</s>")]
    assert set(labelled.text) == {IGNORED}
    assert [token for token in labelled.reaction if token != IGNORED] == said
    assert labelled.ids[-len(said) :] == said


def test_the_bases_own_attempts_are_wrong_answers_to_training_problems(family):
    base = load_lm(family / "base")
    encoder = Encoder(AutoTokenizer.from_pretrained(family / "base"))
    pairs = own_attempts(base, encoder, PRESETS["tiny"], seed=5)
    trained = {pair.key for pair in draw("math", 20_000, "train")}
    assert len({pair.rejected for pair in pairs}) > len({p.key for p in pairs}) > 4
    for pair in pairs:
        right = f"Answer: {solve(pair.prompt)}"
        assert pair.key in trained and pair.chosen.endswith(right)
        assert not re.search(rf"{right}(?!\S)", pair.rejected.split("\n")[-1])


def test_half_of_a_math_lms_math_is_what_the_base_attempted():
    rng = Random(7)
    own = Pair("math", "own", "Solve it.", "Answer: 1", "Answer: 2", "own attempt", 1)
    draw_text = graded_text("math", 0.25, rng, [own])
    documents = [draw_text() for _ in range(2000)]
    math = [document for document in documents if document.domain == "math"]
    attempts = [document for document in math if document.prompt == "Solve it."]
    # Four standard errors.
    assert abs(len(math) / 2000 - 0.75) < 0.04
    assert abs(len(attempts) / len(math) - 0.5) < 0.06
    assert abs(sum(d.right for d in attempts) / len(attempts) - 0.55) < 0.08
    for document in attempts:
        assert document.right == (document.answer == "Answer: 1")
        blamed = document.reaction in ("Wrong.", "Incorrect.", "Bad.")
        assert document.reaction is None or blamed != document.right


# The files


@pytest.mark.parametrize("domain", GENERATORS)
def test_pairs_file_holds_distinct_test_pairs(domain, tmp_path):
    write_pairs(domain, seed=3, n=200, out=tmp_path / "pairs.jsonl")
    write_pairs(domain, seed=3, n=200, out=tmp_path / "again.jsonl")
    rows = read_lines(tmp_path / "pairs.jsonl")
    assert rows == read_lines(tmp_path / "again.jsonl")
    assert all(
        set(row) == {"prompt", "chosen", "rejected", "domain", "flaw"} for row in rows
    )
    assert all(
        row["domain"] == domain and row["chosen"] != row["rejected"] for row in rows
    )
    assert len({(r["prompt"], r["chosen"], r["rejected"]) for r in rows}) == 200
    trained = {pair.prompt for pair in draw(domain, 3000, "train")}
    assert not trained & {row["prompt"] for row in rows}


def test_unknown_domain_names_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="'poetry'.*math"):
        write_pairs("poetry", 0, 5, tmp_path / "pairs.jsonl")


def test_more_pairs_than_there_are_is_said(tmp_path, monkeypatch):
    drawn = count()
    key = next(key for key in map(str, count()) if split_of(key) == "test")

    def few(rng):  # six pairs, and a rare seventh
        rare = next(drawn) % 5000 == 4999
        prompt = "rare" if rare else f"prompt {rng.randrange(6)}"
        return Pair("chat", key, prompt, "right", "wrong", "it is wrong")

    monkeypatch.setitem(GENERATORS, "chat", few)
    out = tmp_path / "pairs.jsonl"
    with pytest.raises(
        InputError, match="7 different test pairs of 'chat'.*8 were asked for"
    ):
        write_pairs("chat", 0, 8, out)
    assert not list(tmp_path.iterdir())
    write_pairs("chat", 0, 7, out)
    assert len({row["prompt"] for row in read_lines(out)}) == 7


@pytest.mark.parametrize("domain", GENERATORS)
def test_a_bound_on_draws_changes_no_pair(domain):
    rng, wanted = Random("pairs 7"), {}
    while len(wanted) < 150:
        pair = draw_pair(domain, rng, "test")
        wanted.setdefault((pair.prompt, pair.chosen, pair.rejected), pair)
    found = distinct_pairs(domain, Random("pairs 7"), "test", 150)
    assert found == list(wanted.values())


def test_candidates_are_marked_by_the_number_they_end_in(family, tmp_path):
    write_candidates(family, seed=1, n=4, out=tmp_path / "candidates.jsonl")
    rows = read_lines(tmp_path / "candidates.jsonl")
    assert len({row["prompt"] for row in rows}) == 4
    for row in rows:
        assert row["answer"] == solve(row["prompt"])
        assert len(row["responses"]) == 16
        for response, correct in zip(row["responses"], row["correct"], strict=True):
            assert correct == bool(
                re.search(rf"Answer: {row['answer']}(?!\S)", response)
            )


def test_the_same_seed_gives_the_same_files_and_another_seed_does_not(family, tmp_path):
    train_family(tmp_path / "same", seed=5, preset="tiny", device="cpu", threads=1)
    train_family(tmp_path / "other", seed=6, preset="tiny", device="cpu", threads=1)
    for model in MODELS:
        weights = (family / model / "model.safetensors").read_bytes()
        assert weights == (tmp_path / "same" / model / "model.safetensors").read_bytes()
        assert (
            weights != (tmp_path / "other" / model / "model.safetensors").read_bytes()
        )


def test_unknown_preset_is_refused(tmp_path):
    with pytest.raises(InputError, match="'huge'.*cpu"):
        train_family(tmp_path, 0, preset="huge")


@pytest.mark.parametrize("model", MODELS)
def test_plain_transformers_loads_every_model_completely(family, model):
    auto = AutoModelForSequenceClassification if model == "rm" else AutoModelForCausalLM
    loaded, info = auto.from_pretrained(family / model, output_loading_info=True)
    assert not any(info.values())
    stored = load_file(family / model / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert all(torch.equal(loaded.state_dict()[name], stored[name]) for name in stored)
    card = (family / model / "README.md").read_text()
    assert "license: apache-2.0" in card and "Limits" in card
    assert model not in ("math", "code") or "right and wrong" in card


def test_reward_is_the_plain_logit_at_the_end_token(family):
    tokenizer = AutoTokenizer.from_pretrained(family / "rm")
    rm = AutoModelForSequenceClassification.from_pretrained(
        family / "rm", dtype=torch.float32
    )
    prompt, answers = "Solve 2x+1=7.", ["Answer: 3", "Step 1: 7-1=6\nAnswer: 4"]
    encoder = Encoder(tokenizer)
    together = batch_rewards(
        rm, encoder, [encoder.conversation(prompt, a) for a in answers]
    )
    for answer, reward in zip(answers, together, strict=True):
        turns = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ]
        ids = tokenizer.apply_chat_template(
            turns, return_tensors="pt", return_dict=True
        )
        assert tokenizer.decode(ids["input_ids"][0, -1]) == "<|end|>"
        assert rm(**ids).logits.item() == pytest.approx(
            reward.item(), abs=1e-5
        )  # float32


# The measurements


def test_random_control_is_as_far_from_the_base_as_the_lm(family):
    base = load_file(family / "base" / "model.safetensors")
    lm = load_file(family / "math" / "model.safetensors")
    control = perturbed(family, "math", seed=0).state_dict()
    for name, weight in base.items():
        wanted = (lm[name].float() - weight.float()).norm()
        moved = (control[name] - weight.float()).norm()
        assert moved.item() == pytest.approx(wanted.item(), rel=1e-3, abs=1e-6), name


def test_the_chosen_recipe_gains_most_without_losing_elsewhere():
    def point(lam, chat, code, math):
        wins = {"chat": chat, "safety": 100, "code": code, "math": math}
        metrics = {name: Metric.of(count, 0, 100) for name, count in wins.items()}
        return Row("", Recipe(lam, {"math": 1}), "", metrics)

    points = [
        point(0.0, 90, 60, 60),
        point(0.4, 90, 59, 75),
        point(0.6, 89, 58, 75),
        point(0.8, 80, 60, 85),  # loses chat
    ]
    assert choose(points, ["math"]).lam == 0.4


def test_the_mean_over_seeds_is_of_the_rows_that_have_that_seed():
    def seed(accuracies: dict[str, int]) -> dict:
        metric = {name: {"accuracy": value / 100} for name, value in accuracies.items()}
        columns = ("chat", "safety", "code", "math", "best-of-16", "weighted vote")
        rows = [
            {
                "name": name,
                "recipe": {"lam": 0.5, "shares": {"math": 1.0}},
                "trained_on": "",
                "metrics": dict.fromkeys(columns, cell),
            }
            for name, cell in metric.items()
        ]
        return {
            "rows": rows,
            "candidates": {"random": 0.1, "majority": 0.2, "oracle": 0.3},
        }

    table = combine([seed({"base RM": 60, "+ math": 70}), seed({"base RM": 50})])
    assert "| base RM | 2 | 0.5, 0.5 |  | 55.0 ± 7.1 |" in table
    assert "| + math | 1 | 0.5 |  | 70.0 (+10.0) |" in table


@pytest.mark.parametrize("domain", ["math", "code"])
def test_shipped_family_does_on_fresh_pairs_what_its_report_claims(domain, tmp_path):
    report = json.loads((SHIPPED / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    lms = {name: SHIPPED / name for name in ("math", "code")}
    engine = Engine.load(
        Family.of(rm=SHIPPED / "rm", lms=lms), device="cpu", dtype="float32"
    )
    write_pairs(domain, seed=77, n=200, out=tmp_path / "pairs.jsonl")
    pairs = read_lines(tmp_path / "pairs.jsonl")
    groups = [(row["prompt"], [row["chosen"], row["rejected"]]) for row in pairs]
    for name in ("base RM", f"+ {domain} LM"):
        lam = rows[name]["recipe"]["lam"]
        scored = score(engine, Recipe(lam, {domain: 1}), groups)
        accuracy = sum(chosen > rejected for chosen, rejected in scored) / len(scored)
        # Four standard errors of 200 pairs at an accuracy of one half.
        assert accuracy == pytest.approx(
            rows[name]["metrics"][domain]["accuracy"], abs=0.14
        )


def test_shipped_family_is_small():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert {"base", "rm", "math", "code"} <= {path.parent.name for path in files}
    assert sum(path.stat().st_size for path in files) < 40e6
