"""Commands as a shell meets them: exit codes, the two output streams, files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import save_lm
from transformers import LlamaForSequenceClassification
from typer.testing import CliRunner

from dogerm.cli import app
from dogerm.recipe import Recipe
from dogerm.scoring import score, tokenise

ROOT = Path(__file__).parent.parent
PAIRS = [
    {"id": 7, "prompt": "2 + 2?", "chosen": "4", "rejected": "5", "domain": "math"},
    {
        "prompt": "Sum of 1, 2?",
        "rejected": "4 <b>",
        "chosen": "3 😀 שלום",
        "domain": "math",
    },
    {"prompt": "print", "chosen": "print(1)", "rejected": "print 1", "domain": "code"},
    {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "Yes?", "rejected": "No"},
]
BEST_OF = {"prompt": "Name a colour.", "responses": ["red", "blue", "mauve"], "n": 1.0}


@pytest.fixture
def source(folders) -> list[str]:
    lms = [f"--lm=math={folders['plain']}", f"--lm=code={folders['padded']}"]
    return [f"--rm={folders['rm']}", *lms, "--device=cpu", "--dtype=float32"]


@pytest.fixture
def run():
    return lambda *arguments, **more: CliRunner().invoke(
        app, map(str, arguments), **more
    )


def lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def pairs(tmp_path) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text(lines([*PAIRS, BEST_OF]), encoding="utf-8")
    return file


def one_line(result) -> str:
    """The sentence on standard error of a command that could not be done."""
    assert result.exit_code == 1, result.output
    sentence = result.stderr.strip()
    assert sentence.startswith("error: ") and "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_help_needs_no_torch_transformers_or_gradio():
    code = (
        "import sys, dogerm.cli\n"
        "print([m for m in ('torch', 'transformers', 'gradio') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT
    )
    assert found.stdout.strip() == b"[]"


def test_help_lists_the_commands(run):
    result = run("--help")
    assert result.exit_code == 0
    for command in ("demo", "score", "sweep", "merge", "inspect", "speed", "nano"):
        assert command in result.stdout


def test_score_keeps_rows_and_adds_the_rewards_of_base_and_merged(
    run, source, pairs, engine, folders
):
    result = run(
        "score", pairs, *source, "--lam=0.3", "--share=math=3", "--share=code=1"
    )
    assert result.exit_code == 0, result.output
    written = [json.loads(line) for line in result.stdout.splitlines()]
    rows = [*PAIRS, BEST_OF]
    assert [list(row) for row in written] == [[*row, "base", "merged"] for row in rows]
    groups = [
        (r["prompt"], r.get("responses") or [r["chosen"], r["rejected"]]) for r in rows
    ]
    for key, lam in (("base", 0), ("merged", 0.3)):
        wanted = score(engine, Recipe(lam, {"math": 3, "code": 1}), groups)
        for row, rewards in zip(written, wanted):
            assert row.pop(key) == pytest.approx(rewards, abs=1e-6)
    assert written == rows
    assert "😀 שלום" in result.stdout  # as it came, not as escapes
    assert "5 rows (4 pairs)" in result.stderr and "λ=0.3" in result.stderr
    assert "n = 4" in result.stderr


def test_base_rewards_are_the_reward_models_own(run, source, pairs, engine, folders):
    result = run("score", pairs, *source)
    first = json.loads(result.stdout.splitlines()[0])
    model = LlamaForSequenceClassification.from_pretrained(
        folders["rm"], dtype=torch.float32
    )
    texts = tokenise(engine, PAIRS[0]["prompt"], ["4", "5"]).sequences
    with torch.inference_mode():
        own = [model(torch.tensor([ids])).logits.item() for ids in texts]
    assert first["base"] == pytest.approx(own, abs=1e-5)


def test_rows_come_from_standard_input_and_go_to_a_file(run, source, pairs, tmp_path):
    out = tmp_path / "new folder" / "scored.jsonl"
    text = "\ufeff" + pairs.read_text(encoding="utf-8").replace("\n", "\r\n\r\n")
    result = run("score", "-", *source, f"--out={out}", input=text.encode())
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    direct = run("score", pairs, *source).stdout
    assert out.read_text(encoding="utf-8") == direct
    assert [file.name for file in out.parent.iterdir()] == ["scored.jsonl"]


def test_an_interrupted_score_leaves_the_old_file_alone(
    run, source, pairs, tmp_path, monkeypatch
):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("dogerm.sweep.sweep", interrupted)
    out = tmp_path / "scored.jsonl"
    out.write_text("before")
    result = run("score", pairs, *source, f"--out={out}")
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    assert out.read_text() == "before"
    assert {file.name for file in tmp_path.iterdir()} == {"scored.jsonl", "pairs.jsonl"}


def test_a_closed_pipe_ends_quietly(source, pairs, tmp_path):
    many = tmp_path / "many.jsonl"
    many.write_text(lines(PAIRS * 100), encoding="utf-8")
    command = [sys.executable, "-m", "dogerm", "score", str(many), *source]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()  # gone before the first row
        errors = process.stderr.read().decode()
        assert process.wait() == 1
    assert errors == ""


LONG = {"prompt": "Go on.", "chosen": "x" * 300, "rejected": "y"}


def test_too_long_a_conversation_is_an_error_that_gives_the_lengths(
    run, source, tmp_path
):
    file = tmp_path / "long.jsonl"
    file.write_text(lines([PAIRS[0], LONG]))
    sentence = one_line(run("score", file, *source))
    for part in (
        "line 2 of long.jsonl",
        "310 tokens",
        "at most 256",
        "--too-long skip",
    ):
        assert part in sentence


def test_too_long_conversations_are_skipped_and_counted(run, source, tmp_path):
    file = tmp_path / "long.jsonl"
    file.write_text(lines([PAIRS[0], LONG, PAIRS[2]]))
    result = run("score", file, *source, "--too-long=skip")
    written = [json.loads(line) for line in result.stdout.splitlines()]
    assert written[1]["base"] is None and written[1]["merged"] is None
    assert "310 tokens" in written[1]["skipped"]
    assert len(written[2]["base"]) == 2 and "skipped" not in written[2]
    assert "1 skipped" in result.stderr and "n = 2" in result.stderr


def test_too_long_conversations_are_cut_and_counted(run, source, tmp_path):
    file = tmp_path / "long.jsonl"
    file.write_text(lines([PAIRS[0], LONG]))
    result = run("score", file, *source, "--too-long=cut")
    assert len(json.loads(result.stdout.splitlines()[1])["merged"]) == 2
    assert "1 conversations cut" in result.stderr


GOOD = json.dumps(PAIRS[0])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not valid JSON at character 2"),
        ("[1]", "should be a JSON object"),
        ("{}", "prompt is missing"),
        ('{"prompt": "p"}', "responses, or chosen and rejected, are missing"),
        ('{"prompt": "p", "chosen": "c"}', "rejected is missing"),
        ('{"prompt": " ", "responses": ["a", "b"]}', "the instruction is empty"),
        ('{"prompt": 5, "responses": ["a", "b"]}', "must be text or a list"),
        ('{"prompt": [], "responses": ["a", "b"]}', "no messages"),
        ('{"prompt": [{"role": "user"}], "responses": ["a", "b"]}', "role and content"),
        ('{"prompt": "p", "responses": "ab"}', "must be a list of texts"),
        ('{"prompt": "p", "responses": ["a"]}', "needs two responses, got 1"),
        ('{"prompt": "p", "responses": ["a", "  "]}', "response B is empty"),
        ('{"prompt": "p", "responses": ["a", null]}', "response B must be text"),
        ('{"prompt": "p", "chosen": "", "rejected": "r"}', "chosen is empty"),
        (
            '{"prompt": "p", "responses": ["a", "b"], "chosen": "a"}',
            "responses and chosen or rejected as well",
        ),
        ('{"prompt": "p", "responses": ["a", "b"], "x": NaN}', "NaN is not a number"),
        ('{"prompt": "p", "responses": ["a", "b"], "x": 1e999}', "Out of range"),
        (r'{"prompt": "p\ud800", "responses": ["a", "b"]}', "half a character"),
        (
            r'{"prompt": "p", "responses": ["a", "b"], "x": "\ud800"}',
            "half a character",
        ),
        (b'{"prompt": "caf\xe9"}', "byte 16 is not valid UTF-8"),
        pytest.param("[" * 100_000, "too many brackets", id="deep"),
    ],
)
def test_a_slip_in_a_row_is_named_by_its_line(run, source, tmp_path, line, says):
    file = tmp_path / "pairs.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    file.write_bytes(GOOD.encode() + b"\n\n" + line + b"\n" + GOOD.encode())
    sentence = one_line(run("score", file, *source))
    assert "line 3 of pairs.jsonl" in sentence and says in sentence


def test_a_file_without_rows_or_none_at_all_is_said(run, source, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n  \n")
    assert "empty.jsonl has no rows" in one_line(run("score", empty, *source))
    gone = one_line(run("score", tmp_path / "gone.jsonl", *source))
    assert "gone.jsonl cannot be read: no such file" in gone
    assert "is a directory" in one_line(run("score", tmp_path, *source))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--lam=1.5"], "λ must be between 0 and 1, got 1.5"),
        (["--lam=nan"], "λ must be between 0 and 1, got nan"),
        (["--share=math=0", "--share=code=0"], "all domain weights are zero"),
        (["--share=math=-1"], "must be a number that is not negative"),
        (["--share=law=1"], "no domain LM 'law'"),
        (["--method=stir"], "no merge method 'stir'"),
        (["--set=density=0.5"], "no option 'density'"),
        (["--layers=slope"], "layers must be constant, ramp, ramp-down, middle, or"),
        (["--layers=0,0.5,1"], "this model has 2 layers and needs 2 numbers"),
        (["--layers=0,1.5"], "from 0 to 1 for each layer, got 1.5 for layer 1"),
        (["--part=brain=1"], "a model has attention, mlp, norms, embeddings"),
        (["--part=mlp=nan"], "the part mlp takes a number from 0 to 1"),
        (["--dtype=int8"], "'int8' is not a dtype"),
        (["--device=tpu9"], "is not a device"),
    ],
)
def test_a_recipe_or_machine_that_cannot_be_meant_is_one_sentence(
    run, source, pairs, options, says
):
    assert says in one_line(run("score", pairs, *source, *options))


@pytest.mark.parametrize("bits", [8, 4])
def test_few_bits_score_near_sixteen_and_are_refused_for_a_checkpoint(
    run, source, pairs, tmp_path, bits
):
    pytest.importorskip("bitsandbytes")
    options = ["--lam=0.5", "--device=cpu"]
    wanted, found = (
        [
            json.loads(line)
            for line in run(
                "score", pairs, *source, *options, *more
            ).stdout.splitlines()
        ]
        for more in ([], [f"--load-in-{bits}bit"])
    )
    for row, other in zip(wanted, found):
        assert other["merged"] == pytest.approx(row["merged"], abs=0.02)
        assert other["merged"] != row["merged"]
    result = run("merge", *source, f"--load-in-{bits}bit", "--out", tmp_path / "out")
    assert "written in 16 or 32 bits" in one_line(result)


@pytest.mark.parametrize(
    "options",
    [
        ["--lam=much"],
        ["--share=math"],
        ["--share=math=much"],
        ["--part=mlp=much"],
        ["--share=math=1", "--share=math=2"],
        ["--family=nano"],
        ["--too-long=never"],
        ["--nonsense"],
    ],
)
def test_wrong_usage_exits_with_two(run, source, pairs, options):
    result = run("score", pairs, *source, *options)
    assert result.exit_code == 2 and "Traceback" not in result.output


@pytest.mark.parametrize(
    "command",
    [
        ["score", "no-rows"],
        ["sweep", "no-rows", "--out=o"],
        ["scan", "no-rows", "--out=o"],
        ["suggest", "no-rows", "no-rows"],
        ["merge", "--out=o"],
        ["bench", "pairs", "--out=o"],
        ["inspect"],
        ["speed"],
        ["demo"],
    ],
)
def test_weights_are_held_in_8_bits_or_in_4_not_both(
    run, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    result = run(*command, "--load-in-8bit", "--load-in-4bit")
    assert result.exit_code == 2, result.output
    assert "--load-in-4bit" in result.stderr and "not both" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits, held", [(8, "int8"), (4, "nf4")])
def test_inspect_plans_with_few_bits(run, source, bits, held):
    option = f"--load-in-{bits}bit"
    plan = json.loads(run("inspect", *source, option, "--json").stdout)["plan"]
    asked = {key: value for key, value in plan.items() if key.startswith("load_in")}
    assert asked == {"load_in_8bit": bits == 8, "load_in_4bit": bits == 4}
    assert f"in {held} beside float32" in run("inspect", *source, option).stdout


def test_an_unknown_family_or_a_model_that_is_not_there_is_one_sentence(
    run, source, pairs, folders, tmp_path
):
    sentence = one_line(run("score", pairs, "--family=none-such"))
    assert "no family 'none-such'" in sentence
    assert "name at least one domain LM" in one_line(run("score", pairs, source[0]))
    gone = f"--lm=math={tmp_path / 'gone'}"
    assert "no folder" in one_line(run("score", pairs, source[0], gone))
    broken = save_lm(tmp_path / "broken", 9) / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    sentence = one_line(run("score", pairs, source[0], f"--lm=math={broken.parent}"))
    assert str(broken) in sentence and "truncated" in sentence


def test_a_place_that_cannot_be_written_is_one_sentence(run, source, pairs, tmp_path):
    assert str(tmp_path) in one_line(run("score", pairs, *source, f"--out={tmp_path}"))
    inside = pairs / "scored.jsonl"
    assert "pairs.jsonl" in one_line(run("score", pairs, *source, f"--out={inside}"))


def test_sweep_reports_the_accuracy_at_every_lambda(run, source, pairs, tmp_path):
    out = tmp_path / "sweep"
    result = run("sweep", pairs, *source, "--lam=0:1:0.25", f"--out={out}")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (out / "rows.jsonl").open(encoding="utf-8")]
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["benchmark"] == "pairs"
    assert list(report["family"]) == ["name", "rm", "lms"]
    assert report["settings"]["dtype"] == "float32"
    assert report["settings"]["versions"]["torch"] == torch.__version__
    assert [r["lam"] for r in report["recipes"]] == [0, 0.25, 0.5, 0.75, 1]
    assert all(r["shares"] == {"code": 0.5, "math": 0.5} for r in report["recipes"])
    assert [len(row["rewards"]) for row in rows] == [5] * 5
    assert [len(rewards) for rewards in rows[-1]["rewards"]] == [3] * 5
    for at, recipe in enumerate(report["recipes"]):
        assert list(recipe["metrics"]) == ["math", "code", "Overall"]
        wins = [row["rewards"][at][0] > row["rewards"][at][1] for row in rows[:4]]
        for group, own in (("math", wins[:2]), ("code", wins[2:3]), ("Overall", wins)):
            metric = recipe["metrics"][group]
            assert metric["accuracy"] == sum(own) / len(own)
            assert metric["n"] == len(own) and metric["ties"] == 0
            assert 0 <= metric["low"] <= metric["accuracy"] <= metric["high"] <= 1


def renamed(lm: Path, count: int) -> Path:
    """The LM with so many of its tokens under other names."""
    state = json.loads((lm / "tokenizer.json").read_text())
    words = state["model"]["vocab"]
    changed = list(words)[-count:]
    state["model"]["vocab"] = {
        f"own {word}" if word in changed else word: row for word, row in words.items()
    }
    (lm / "tokenizer.json").write_text(json.dumps(state))
    return lm


def test_what_is_amiss_between_the_models_is_said_whatever_the_command(
    run, folders, pairs, tmp_path
):
    lm = renamed(save_lm(tmp_path / "lm", 3), 80)
    config = json.loads((lm / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    (lm / "config.json").write_text(json.dumps(config))
    models = [f"--rm={folders['rm']}", f"--lm=math={lm}", "--device=cpu"]
    theirs = [f"--lm=code={folders['padded']}"]  # one more token: nothing amiss
    for command in (
        ["score", pairs],
        ["sweep", pairs, "--lam=0,1", f"--out={tmp_path / 'sweep'}"],
        ["merge", f"--out={tmp_path / 'merged'}"],
    ):
        result = run(*command, *models, *theirs)
        assert result.exit_code == 0, result.output
        said = [n for n in result.stderr.splitlines() if n.startswith("Warning: ")]
        assert len(said) == 2, result.stderr
        assert "rope_theta" in said[0] and "'math'" in said[0]
        assert "'math' lacks 80 of the reward model's 262 tokens" in said[1]
        assert "80 of its own are appended" in said[1]
    inspected = run("inspect", *models, *theirs).stdout
    assert all(warning in inspected for warning in said)
    assert "tokens appended: own " in result.stdout and "and 73 more" in result.stdout


def test_sweep_and_score_agree(run, source, pairs, tmp_path):
    run("sweep", pairs, *source, "--lam=0,0.4", f"--out={tmp_path}", "--share=math=1")
    scored = run("score", pairs, *source, "--lam=0.4", "--share=math=1").stdout
    with (tmp_path / "rows.jsonl").open(encoding="utf-8") as file:
        for line, other in zip(file, scored.splitlines(), strict=True):
            rewards, row = json.loads(line)["rewards"], json.loads(other)
            assert rewards == [row["base"], row["merged"]]


def test_layers_and_parts_reach_score_sweep_and_merge(
    run, source, pairs, engine, tmp_path
):
    options = ["--share=math=1", "--layers=1,0.5", "--part=attention=0.5"]
    recipe = Recipe(0.8, {"math": 1}, layers=[1, 0.5], parts={"attention": 0.5})
    [wanted] = score(engine, recipe, [("2 + 2?", ["4", "5"])])
    result = run("score", pairs, *source, *options, "--lam=0.8")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[0])["merged"] == pytest.approx(
        wanted, abs=1e-6
    )
    assert "λ times 1,0.5 over the layers, 0.5 in attention" in result.stderr
    run("sweep", pairs, *source, *options, "--lam=0,0.8", f"--out={tmp_path}")
    report = json.loads((tmp_path / "report.json").read_text())
    assert Recipe.from_json(report["recipes"][1]) == recipe
    first = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert first["rewards"][1] == pytest.approx(wanted, abs=1e-6)
    out = tmp_path / "merged"
    result = run("merge", *source, *options, "--lam=0.8", f"--out={out}")
    assert result.exit_code == 0, result.output
    stored = LlamaForSequenceClassification.from_pretrained(out)
    engine.apply(recipe)
    for name, parameter in stored.named_parameters():
        torch.testing.assert_close(parameter, engine.model.get_parameter(name))
    assert "0.5 in attention" in (out / "README.md").read_text(encoding="utf-8")
    record = json.loads((out / "dogerm.json").read_text())
    assert Recipe.from_json(record["recipe"]) == recipe


@pytest.mark.parametrize("command", ["score", "sweep", "merge"])
def test_layers_that_do_not_fit_are_refused_before_anything_is_written(
    run, source, pairs, tmp_path, command
):
    out = tmp_path / "out"
    rows = [] if command == "merge" else [pairs]
    sentence = one_line(run(command, *rows, *source, "--layers=1", f"--out={out}"))
    assert "lists 1 numbers; this model has 2 layers" in sentence
    assert not out.exists()


def test_sweep_skips_and_counts(run, source, tmp_path):
    file = tmp_path / "long.jsonl"
    file.write_text(lines([PAIRS[0], LONG]))
    run("sweep", file, *source, "--lam=0,1", f"--out={tmp_path}", "--too-long=skip")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["settings"]["skipped"] == 1
    assert report["recipes"][0]["metrics"]["Overall"]["n"] == 1
    skipped = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[1])
    assert skipped["rewards"] is None and "310 tokens" in skipped["skipped"]


@pytest.mark.parametrize(
    "grid", ["0.5", "0:2:0.5", "a:b:c", "0:1:0", "1:0:0.1", "nan,1"]
)
def test_a_grid_that_is_none_is_one_sentence(run, source, pairs, tmp_path, grid):
    out = tmp_path / "sweep"
    assert "λ" in one_line(
        run("sweep", pairs, *source, f"--lam={grid}", f"--out={out}")
    )
    assert not out.exists()


def test_demo_hands_its_options_to_the_page(run, source, monkeypatch):
    served = {}

    def serve(family, **settings):
        served.update(settings, family=family)

    monkeypatch.setattr("dogerm.ui.serve", serve)
    result = run("demo", *source, "--port=7999", "--public", "--offline", "--mcp")
    assert result.exit_code == 0, result.output
    assert list(served.pop("family").lms) == ["math", "code"]
    assert served == {
        "host": None,
        "port": 7999,
        "share": False,
        "public": True,
        "quantised": None,
        "offline": True,
        "mcp": True,
        "reports": None,
        "device": "cpu",
        "dtype": "float32",
    }


def test_nano_writes_pairs_that_can_be_scored(run, source, tmp_path):
    out = tmp_path / "math.jsonl"
    result = run("nano", "pairs", "--domain=math", "--n=3", "--seed=5", f"--out={out}")
    assert result.exit_code == 0, result.output
    assert str(out) in result.stderr
    scored = run("score", out, *source, "--too-long=cut")
    assert [json.loads(line)["domain"] for line in scored.stdout.splitlines()] == [
        "math"
    ] * 3


def test_nano_slips_are_one_sentence(run, tmp_path):
    out = f"--out={tmp_path / 'x.jsonl'}"
    assert "no domain 'law'" in one_line(run("nano", "pairs", "--domain=law", out))
    result = run("nano", "pairs", "--domain=code", "--best-of=16", out)
    assert result.exit_code == 2
    assert str(tmp_path) in one_line(run("nano", "report", tmp_path))
