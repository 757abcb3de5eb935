"""Rewards against transformers' own, one conversation at a time."""

import random
import threading

import pytest
import torch
from conftest import byte_tokenizer, llama_config, plain_reward
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dogerm.engine import LAYER_START, Engine
from dogerm.errors import InputError, OutOfMemory, TooLong
from dogerm.family import Family
from dogerm.plan import Plan
from dogerm.recipe import Recipe
from dogerm.scoring import letter, rewards, score, tokenise

BASE = Recipe(0, {"math": 1})
PROMPT = "What is the capital of France, and why do you think so?"
ANSWERS = ["Paris.", "Lyon, I think, as it is on two rivers.", "北京 🙂", "P"]
# Padding changes the order of float32 sums: the tolerance for a reward.
CLOSE = 1e-5


def by_transformers(folder, prompt: str, response: str) -> float:
    """What transformers gives one conversation with the model in a folder."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    return plain_reward(model, AutoTokenizer.from_pretrained(folder), prompt, response)


def test_rewards_equal_transformers_own_on_single_inputs(engine, folders):
    found = score(engine, BASE, [(PROMPT, ANSWERS), ("Hi", ["Hello", "Go away"])])
    wanted = [by_transformers(folders["rm"], PROMPT, answer) for answer in ANSWERS]
    assert found[0] == pytest.approx(wanted, abs=CLOSE)
    wanted = [
        by_transformers(folders["rm"], "Hi", answer) for answer in ("Hello", "Go away")
    ]
    assert found[1] == pytest.approx(wanted, abs=CLOSE)


@pytest.mark.parametrize("start", [0, LAYER_START["cpu"]])
def test_reward_ignores_order_padding_and_batch_neighbours(engine, monkeypatch, start):
    monkeypatch.setitem(LAYER_START, "cpu", start)
    draw = random.Random(0)
    groups = [
        ("p" * draw.randint(1, 60), ["r" * draw.randint(1, 90) for _ in range(n)])
        for n in (1, 2, 3, 5, 2, 1)
    ]
    recipe = Recipe(0.4, {"math": 1, "code": 1})
    together = score(engine, recipe, groups)
    for budget in (1, 200, 1000):
        monkeypatch.setattr(Plan, "batch_tokens", budget)
        shuffled = list(range(len(groups)))
        draw.shuffle(shuffled)
        again = score(engine, recipe, [groups[i] for i in shuffled])
        for index, found in zip(shuffled, again):
            assert found == pytest.approx(together[index], abs=CLOSE)
    for (prompt, responses), row in zip(groups, together):
        alone = [score(engine, recipe, [(prompt, [r])])[0][0] for r in responses]
        assert alone == pytest.approx(row, abs=CLOSE)


def test_shared_prompts_are_computed_once(engine, monkeypatch):
    seen = []
    forward = engine.forward
    monkeypatch.setattr(
        engine, "forward", lambda batch: seen.append(batch) or forward(batch)
    )
    score(engine, BASE, [(PROMPT, ANSWERS)])
    (batch,) = seen
    assert batch.prompts.shape[0] == 1
    # Nothing of the prompt is left in the responses: <|assistant|> ends the shared part.
    texts = [
        engine.tokenizer.decode(row[:n])
        for row, n in zip(batch.responses, batch.lengths)
    ]
    assert texts[0].replace(" ", "").startswith("Paris.")


def test_long_and_short_responses_are_not_padded_to_each_other(engine, monkeypatch):
    shapes = []
    table = engine.model.get_input_embeddings()
    watched = table.register_forward_hook(
        lambda layer, inputs, out: shapes.append(tuple(inputs[0].shape))
    )
    draw = random.Random(1)
    texts = ["r" * n + str(n) for n in draw.sample(range(10, 90), 16)]
    item = tokenise(engine, PROMPT, texts)
    own = sum(len(ids) - item.shared for ids in item.sequences)
    try:
        whole = rewards(engine, BASE, [item])
        padded = sum(rows * width for rows, width in shapes)
        assert padded > item.shared + 1.3 * own  # of a tiny model: in one pass
        shapes.clear()
        monkeypatch.setitem(LAYER_START, "cpu", 0)
        assert rewards(engine, BASE, [item]) == [pytest.approx(whole[0], abs=CLOSE)]
    finally:
        watched.remove()
    padded = sum(rows * width for rows, width in shapes)
    assert item.shared + own <= padded < item.shared + 1.2 * own


def test_swapping_the_answers_negates_the_margin(engine):
    recipe = Recipe(0.6, {"math": 1})
    (a, b), (c, d) = score(
        engine, recipe, [(PROMPT, ANSWERS[:2]), (PROMPT, ANSWERS[1::-1])]
    )
    assert a - b == pytest.approx(-(c - d), abs=CLOSE)


def test_reward_is_read_where_the_model_itself_reads_it_when_pad_is_eos(
    tmp_path, folders
):
    """Like the paper's reward model: pad_token_id == eos_token_id, and the text ends with it."""
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = "</s>"
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", " </s>")
    config = llama_config(len(tokenizer), num_labels=1)
    config.pad_token_id = 2
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = Engine.load(
        Family.of(tmp_path, {"math": folders["plain"]}), device="cpu", dtype="float32"
    )
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids[-1] == 2
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits.item()
    assert score(engine, BASE, [("Hi", ["Hello", "x" * 50])])[0][0] == pytest.approx(
        wanted, abs=CLOSE
    )


def test_too_long_gives_the_lengths_or_cuts_the_left_and_says_so(engine, folders):
    with pytest.raises(TooLong, match=r"response B has 3\d\d tokens .* at most 256"):
        tokenise(engine, "Hi", ["ok", "x" * 300])
    cut = tokenise(engine, "Hi", ["ok", "x" * 300], too_long="cut")
    assert len(cut.sequences[1]) == 256 and cut.cut[0] == 0 and cut.cut[1] > 40
    whole = tokenise(engine, "Hi", ["ok"]).sequences[0]
    assert cut.sequences[1][-1] == whole[-1]  # the end, where the reward is read, stays
    assert rewards(engine, BASE, [cut])[0][0] == pytest.approx(
        by_transformers(folders["rm"], "Hi", "ok"), abs=CLOSE
    )


@pytest.mark.parametrize(
    ("prompt", "responses", "words"),
    [
        ("", ["a", "b"], "the instruction is empty"),
        ("Hi", ["a", "  \n"], "response B is empty"),
        ("Hi", ["a", 3], "response B must be text"),
        (
            "Hi \ud800",
            ["a", "b"],
            "the instruction is not valid Unicode at character 4",
        ),
        ([], ["a"], "no messages"),
        ([{"role": "user"}], ["a"], "role and content"),
    ],
)
def test_text_that_cannot_be_scored_is_named(engine, prompt, responses, words):
    with pytest.raises(InputError, match=words):
        score(engine, BASE, [(prompt, responses)])


@pytest.mark.parametrize(
    "text",
    [
        "\x00\x01\x1b[31m",
        "🙂👩‍👩‍👧",
        "مرحبا \u202e",
        "<script>alert(1)</script>",
        "{{ 7*7 }}",
    ],
)
def test_any_valid_text_gets_a_reward(engine, folders, text):
    found = score(engine, BASE, [("Hi", [text, "ok"])])[0][0]
    assert found == pytest.approx(by_transformers(folders["rm"], "Hi", text), abs=CLOSE)


def test_chat_messages_and_a_system_prompt_reach_the_template(family, engine):
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    ids = tokenise(engine, messages, ["Bye bye"]).sequences[0]
    text = engine.tokenizer.decode(ids).replace(" ", "")
    assert text.endswith("<|user|>Bye<|assistant|>Byebye<|end|>")
    assert text.count("<|assistant|>") == 2


def test_weights_that_are_not_numbers_are_said(family):
    engine = Engine.load(family, device="cpu", dtype="float32")
    with engine.using(BASE), torch.no_grad():
        engine.model.score.weight.fill_(float("nan"))
        with pytest.raises(InputError, match="not a finite number"):
            score(engine, BASE, [("Hi", ["a", "b"])])


def test_letters_name_responses():
    assert [letter(i) for i in (0, 7, 25, 26)] == ["A", "H", "Z", "27"]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("bfloat16", 0.02), ("float16", 0.003)]
)
def test_sixteen_bit_rewards_are_near_float32(family, engine, dtype, tolerance):
    """Measured on this fixture: rewards of size 0.1 differ by 0.004 and 0.0005."""
    recipe = Recipe(0.5, {"math": 1})
    half = Engine.load(family, device="cpu", dtype=dtype)
    wanted = score(engine, recipe, [(PROMPT, ANSWERS)])[0]
    found = score(half, recipe, [(PROMPT, ANSWERS)])[0]
    assert found == pytest.approx(wanted, abs=tolerance)
    assert found != wanted


def test_a_long_scoring_run_lets_others_in_between_recipes(engine):
    """The lock is held per recipe, not per sweep: a second visitor is not starved."""
    done = threading.Event()
    threading.Thread(
        target=lambda: (score(engine, BASE, [("Hi", ["a", "b"])]), done.set())
    ).start()
    for step in range(200):
        score(engine, Recipe(0.5 + step / 1000, {"math": 1}), [("Hi", ["a", "b"])])
        if done.is_set():
            return
    pytest.fail("the other thread never got the engine")


def test_out_of_memory_is_retried_with_smaller_batches_then_said(engine, monkeypatch):
    forward, sizes = engine.forward, []

    def small_device(batch):
        sizes.append(batch.responses.numel())
        if batch.responses.numel() > limit:
            raise OutOfMemory("cpu has too little free memory.")
        return forward(batch)

    groups = [("p" * n, ["r" * n, "s" * (n + 9)]) for n in range(40, 120, 5)]
    wanted = score(engine, BASE, groups)
    monkeypatch.setattr(engine, "forward", small_device)
    limit = 600
    counted = []
    items = [tokenise(engine, *group) for group in groups]
    found = rewards(engine, BASE, items, counted.append)
    assert max(sizes) > limit  # it did run out
    for row, expected in zip(found, wanted):
        assert row == pytest.approx(expected, abs=CLOSE)
    assert sum(counted) == 2 * len(groups)
    limit = 10
    with pytest.raises(OutOfMemory, match="too little free memory"):
        rewards(engine, BASE, items)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_gpu_scores_as_the_cpu_does_in_one_pass_and_in_several(
    family, engine, monkeypatch
):
    live = Engine.load(family, device="cuda", dtype="float32")
    recipe, texts = Recipe(0.4, {"math": 1}), ["r" * n for n in range(5, 90, 7)]
    wanted = score(engine, recipe, [(PROMPT, texts)])[0]
    for start in (LAYER_START["cuda"], 0):
        monkeypatch.setitem(LAYER_START, "cuda", start)
        found = score(live, recipe, [(PROMPT, texts)])[0]
        # A GPU's float32 products add in another order, and may round to TF32.
        assert found == pytest.approx(wanted, abs=1e-3)
