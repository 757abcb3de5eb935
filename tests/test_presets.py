"""Presets: conversations are read as the paper's code read them, or as the model was trained."""

import json
from pathlib import Path

import pytest
import torch
from conftest import byte_tokenizer, llama_config
from tokenizers.processors import TemplateProcessing
from transformers import LlamaForSequenceClassification
from typer.testing import CliRunner

from dogerm.cli import app
from dogerm.engine import Engine
from dogerm.export import export
from dogerm.family import FAMILIES, Family
from dogerm.scoring import score

LIMIT = 200
SINGLE = ("What is 2 + 2?", ("It is 4.", "Five, I think."))
TURNS = (
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ],
    ("See you.", "No."),
)
LONG = ("Say it. " * 30, ("Yes, I do.", "No, and no again."))
CLOSE = 1e-5  # of float32, between a batch and one by one


@pytest.fixture(scope="module")
def models(tmp_path_factory, folders) -> Path:
    """A family file like the paper's: Llama-2 chat, two BOS, </s> to pad with."""
    root = tmp_path_factory.mktemp("presets")
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    torch.manual_seed(5)
    config = llama_config(len(tokenizer), num_labels=1)
    config.pad_token_id = tokenizer.eos_token_id
    LlamaForSequenceClassification(config).save_pretrained(root / "rm")
    tokenizer.save_pretrained(root / "rm")
    own = (FAMILIES / "llama2-7b.toml").read_text()
    reading = own[own.index("# The Llama-2 chat format") : own.index("[lms]")]
    file = root / "like-paper.toml"
    file.write_text(
        f'rm = "{root / "rm"}"\nmax_tokens = {LIMIT}\n{reading}\n'
        f'[lms]\nmath = "{folders["plain"]}"\n'
    )
    return file


def ids_of(models: Path, prompt, responses) -> list[list[int]]:
    """Token ids of each conversation, with two BOS, as transformers' tokenizer gives them."""
    tokenizer, template = byte_tokenizer(), Family.load(models).template
    turns = (
        prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    )
    found = []
    for response in responses:
        every = [*turns, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(
            every, chat_template=template, tokenize=False
        )
        found.append([1, *tokenizer(text, add_special_tokens=False).input_ids])
    return found


def plain(models: Path, row, preset: str, cut_left: bool = True) -> list[float]:
    """The rewards by transformers' own model, and by the rule of either version of it."""
    folder = models.parent / "rm"
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for ids in ids_of(models, *row):
        ids = ids[-LIMIT:] if cut_left else ids[:LIMIT]
        table = torch.tensor([ids])
        with torch.no_grad():
            if preset == "corrected":  # transformers 5, which is installed
                found.append(model(table).logits.item())
                continue
            logits = model.score(model.model(table).last_hidden_state)[0, :, 0]
            # transformers 4.45: argmax of "is padding", less one, modulo the length.
            at = (table[0] == 2).int().argmax().item() - 1
            found.append(logits[at].item())
    return found


@pytest.mark.parametrize("row", [SINGLE, TURNS])
@pytest.mark.parametrize("preset", ["paper", "corrected"])
def test_rewards_are_read_where_transformers_reads_them(models, preset, row):
    family = Family.load(models).under(preset)
    engine = Engine.load(family, "cpu", "float32")
    (found,) = score(engine, family.recipe(lam=0), [row])
    assert found == pytest.approx(plain(models, row, preset), abs=CLOSE)
    # The first turn is all that the paper's rule reads: both answers have its reward.
    assert (found[0] == found[1]) == (preset == "paper" and row is TURNS)


def test_a_value_head_is_read_at_the_last_token(models, tmp_path, folders):
    from safetensors.torch import load_file, save_file

    for file in (models.parent / "rm").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["v_head.summary.weight"] = tensors.pop("score.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    family = Family.load(models)
    settings = {"template": family.template, "add_special_tokens": True}
    valued = Family.of(tmp_path, family.lms, **settings)
    engine, recipe = Engine.load(valued, "cpu", "float32"), valued.recipe(0)
    wanted = score(engine, recipe, [SINGLE])[0]
    # A checkpoint written from it is read there too, by a class that passes over padding.
    export(valued, recipe, tmp_path / "out", "float32")
    written = LlamaForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    for ids, reward in zip(ids_of(models, *SINGLE), wanted):
        assert ids[-1] == 2
        with torch.no_grad():
            hidden = engine.model.model(torch.tensor([ids])).last_hidden_state[0, -1]
            assert reward == pytest.approx(engine.model.score(hidden).item(), abs=CLOSE)
            found = written(torch.tensor([ids])).logits.item()
        assert found == pytest.approx(reward, abs=CLOSE)


@pytest.mark.parametrize("benchmark", ["rewardbench", "autoj"])
def test_a_benchmark_follows_its_preset_and_says_so(models, tmp_path, benchmark):
    prompt, (right, wrong) = LONG
    row = {"prompt": prompt, "chosen": right, "rejected": wrong, "subset": "hep-go"}
    row |= {"response 1": right, "response 2": wrong, "label": 0}
    row["scenario"] = "math_reasoning"
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(row))

    def run(preset, *more):
        out = tmp_path / f"{preset}{len(more)}"
        settings = [f"--preset={preset}", "--device=cpu", "--lam=0,1", *more]
        command = ["bench", benchmark, f"--data={data}", f"--family={models}"]
        result = CliRunner().invoke(app, [*command, *settings, f"--out={out}"])
        return result, out

    refused, _ = run("corrected")
    assert refused.exit_code == 1 and f"reads at most {LIMIT}" in refused.stderr
    for (done, out), preset, cut_left in (
        (run("paper"), "paper", benchmark != "autoj"),
        (run("corrected", "--too-long=cut"), "corrected", True),
    ):
        assert done.exit_code == 0, done.output
        found = json.loads((out / "rows.jsonl").read_text())["rewards"][0]
        assert found == pytest.approx(plain(models, LONG, preset, cut_left), abs=CLOSE)
        settings = json.loads((out / "report.json").read_text())["settings"]
        wanted = "first-pad" if preset == "paper" else "text-end"
        assert settings["conversation"]["reward_at"] == wanted
        assert settings["conversation"]["add_special_tokens"] is True
        assert settings["too_long"] == ("cut" if cut_left else "cut-end")
        assert settings["cut"] == 2


def test_the_card_of_a_merge_loads_it_to_the_reward_that_the_family_gives(
    models, tmp_path, monkeypatch
):
    family = Family.load(models)
    recipe = family.recipe(0.4)
    export(family, recipe, tmp_path / "out", "float32")
    card = (tmp_path / "out" / "README.md").read_text()
    program = card.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path / "out")
    found = {}
    exec(program, found)  # noqa: S102
    engine = Engine.load(family, "cpu", "float32")
    [[wanted]] = score(engine, recipe, [("What is 2 + 2?", ["4"])])
    assert found["reward"] == pytest.approx(wanted, abs=CLOSE)
