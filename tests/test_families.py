"""Families are files: what they must hold, and what those that come with dogerm hold."""

import re
from types import SimpleNamespace

import pytest
from conftest import byte_tokenizer
from jinja2 import TemplateError
from tokenizers.processors import TemplateProcessing

from dogerm.errors import FamilyError, RecipeError
from dogerm.family import FAMILIES, Family, names
from dogerm.recipe import Recipe
from dogerm.scoring import tokenise

PAPER = "llama2-7b"

SETTINGS = (
    'rm = "./x"\n[lms]\nm = "./x"\n[default]\nlam = 0.2\n'
    '[[setting]]\nname = "first"\nlam = 0.1\n[[setting]]\n'
)


def write(tmp_path, text: str):
    file = tmp_path / "own.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_family_file(tmp_path):
    family = Family.load(
        write(
            tmp_path,
            'rm = "../rm"\nnote = "n"\n[lms]\nmath = "org/math@v1.0"\ncode = "./code"\n'
            '[notes]\nmath = "sums"\n'
            "[default]\nlam = 0.4\nshares = { math = 3, code = 1 }\n",
        )
    )
    assert family.rm == str(tmp_path.parent / "rm") and family.name == "own"
    assert family.lms == {"math": "org/math@v1.0", "code": str(tmp_path / "code")}
    assert family.notes == {"math": "sums"} and not family.add_special_tokens
    assert family.recipe() == Recipe(0.4, {"math": 0.75, "code": 0.25})
    assert family.recipe(0.1, {"code": 1}) == Recipe(0.1, {"code": 1})
    with pytest.raises(RecipeError, match="no domain LM 'law'"):
        family.recipe(0.1, {"law": 1})


def test_settings_are_derived_and_the_familys_own_replace_or_follow(tmp_path):
    two = 'rm = "./x"\n[lms]\nmath = "./m"\ncode = "./c"\n'
    default = "[default]\nlam = 0.4\nshares = { math = 3, code = 1 }\n"
    own = (
        '[[setting]]\nname = "math alone"\nlam = 1\nshares = { math = 1 }\n'
        '[[setting]]\nname = "halfway"\nlam = 0.5\n'
    )
    mix = {"math": 0.75, "code": 0.25}
    found = Family.load(write(tmp_path, two + default + own)).settings()
    assert {one.name: one.recipe for one in found} == {
        "base RM": Recipe(0, mix),
        "default": Recipe(0.4, mix),
        "math alone": Recipe(1, {"math": 1}),
        "code alone": Recipe(0.4, {"code": 1}),
        "halfway": Recipe(0.5, mix),
    }
    one = Family.of("./x", {"math": "./m"}).settings()
    assert [setting.name for setting in one] == ["base RM", "default"]


@pytest.mark.parametrize("name", names())
def test_every_family_that_comes_along_has_settings(name):
    family = Family.load(name)
    found = {one.name: one.recipe for one in family.settings()}
    assert found["base RM"].lam == 0 and found["default"] == family.recipe()
    assert len(set(map(str, found.values()))) == len(found)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("rm = 3 4\n", 1, "cannot be read"),
        ('rm = "./x"', None, "lms is missing"),
        ('lms = {m = "./x"}', None, "rm is missing"),
        ('title = "t"\nrm = 3\n[lms]\nm = "./x"', 2, "rm must be text"),
        ('rm = "./x"\n\nmr = "y"\n[lms]\nm = "./x"', 3, "unknown key 'mr'"),
        ('rm = "./x"\n[lms]\nm = "./x"\n[dfault]', 4, "unknown key 'dfault'"),
        ('rm = "./x"\n[lms]\nm = 1', 3, "must be text, got 1"),
        ('rm = "x"\n[lms]\nm = "./x"', 1, "'x' is neither a path"),
        ('rm = "./x"\n# one\n[lms]\nm = "a/b/c"', 4, "'a/b/c' is neither a path"),
        ('rm = "./x"\nlms = {m = "org/n@"}', 2, "'org/n@' is neither a path"),
        ('rm = "./x"\nmax_tokens = true\n[lms]\nm = "./x"', 2, "a whole number"),
        ('rm = "./x"\nmax_tokens = 0\n[lms]\nm = "./x"', 2, "1 or more"),
        ('rm = "./x"\nadd_special_tokens = 1\n[lms]\nm = "./x"', 2, "true or false"),
        ('rm = "./x"\ndtype = "int8"\n[lms]\nm = "./x"', 2, "float32, bfloat16"),
        ('rm = "./x"\n[lms]\nm = "./x"\n[notes]\nq = "?"', 5, "no such LM"),
        ('rm = "./x"\n[lms]\nm = "./x"\n[default]\nlam = 2', 5, "between 0 and 1"),
        ('rm = "./x"\n[lms]\nm = "./x"\n[default]\nlamb = 1', 5, "not 'lamb'"),
        ('rm = "./x"\n[lms]\nm = "./x"\n[default]\nshares = 1', 5, "a table like"),
        (
            'rm = "./x"\n[lms]\nm = "./x"\n[default]\nlam = 0.1\nshares = {q = 1}',
            6,
            "no domain LM 'q'",
        ),
        ('rm = "./x"\nlms.m = "./x"\ndefault.lam = 2', None, "between 0 and 1"),
        (
            'rm = "./x"\nreward_at = "eos"\n[lms]\nm = "./x"',
            2,
            "reward_at must be one of end, text-end, first-pad, got 'eos'",
        ),
        ('rm = "./x"\n[lms]\nm = "./x"\n[paper]\nlam = 1', 5, "unknown key 'lam'"),
        ('rm = "./x"\n[lms]\nm = "./x"\n[paper]\nmax_tokens = 0', 5, "1 or more"),
        ('rm = "./x"\nsetting = [1]\n[lms]\nm = "./x"', 2, "tables, each under"),
        (SETTINGS + 'name = "p"\nlam = 2', 11, r"'p'.*between 0 and 1"),
        (SETTINGS + 'name = "p"\nlam = "x"', 11, "'p'"),
        (SETTINGS + 'name = "p"\n\nshares = { q = 1 }', 12, "no domain LM 'q'"),
        (SETTINGS + 'name = "p"\nshares = 1', 11, "a table like"),
        (SETTINGS + 'name = "p"\nlamb = 1', 11, "not 'lamb'"),
        (SETTINGS + "lam = 1", 9, "must have a name"),
        (SETTINGS + 'name = "first"', 10, "another .* named 'first'"),
    ],
)
def test_a_slip_in_a_family_file_is_named_with_file_and_line(
    tmp_path, text, line, words
):
    file = write(tmp_path, text)
    with pytest.raises(FamilyError, match=words) as caught:
        Family.load(file)
    assert str(file) in str(caught.value)
    assert line is None or f"line {line}" in str(caught.value)


def test_an_unknown_family_names_the_known_ones():
    with pytest.raises(FamilyError, match="no family 'nope'.*qwen3-0.6b"):
        Family.load("nope")


@pytest.mark.parametrize("name", names())
def test_every_family_loads_and_says_which_ids_were_not_checked(name):
    family = Family.load(name)
    assert family.name == name and family.title and family.recipe()
    assert set(family.notes) <= set(family.lms)
    lines = (FAMILIES / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    for source in filter(None, [family.rm, family.parent, *family.lms.values()]):
        if source.startswith("/"):
            continue  # ships with dogerm
        pinned = re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", source)
        (line,) = [line for line in lines if f'"{source}"' in line]
        assert pinned or "not checked" in line or "gated" in line, line


def test_the_families_that_were_promised_are_there():
    assert {PAPER, "mistral-7b", "qwen3-8b", "qwen3-0.6b"} <= set(names())
    for name in ("qwen3-8b", "qwen3-0.6b"):
        assert {"math", "code"} <= set(Family.load(name).lms)


def llama_tokenizer():
    """One token a byte; like Llama-2's it puts a BOS before what it is given."""
    tokenizer = byte_tokenizer()
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    return tokenizer


def rendered(messages: list[dict]) -> str:
    return llama_tokenizer().apply_chat_template(
        messages, chat_template=Family.load(PAPER).template, tokenize=False
    )


# The default system prompt of Llama-2 chat, as Meta published it; the curly apostrophes
# are those of the paper's code.
DEFAULT_PROMPT = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as "
    "possible, while being safe. Your answers should not include any harmful, unethical, "
    "racist, sexist, toxic, dangerous, or illegal content. Please ensure that your "
    "responses are socially unbiased and positive in nature.\n\nIf a question does not "
    "make any sense, or is not factually coherent, explain why instead of answering "
    "something not correct. If you don\u2019t know the answer to a question, please "
    "don\u2019t share false information."
)


def test_the_papers_family_writes_llama_2_chat_with_two_bos_and_one_eos():
    engine = SimpleNamespace(
        family=Family.load(PAPER),
        tokenizer=llama_tokenizer(),
        max_tokens=2048,
        reward_at="end",
        pad_token=None,
    )
    tokens = tokenise(engine, " What is 2 + 2? ", ["It is 4.\n"])
    assert engine.tokenizer.decode(tokens.sequences[0]) == (
        f"<s><s>[INST] <<SYS>>\n{DEFAULT_PROMPT}\n<</SYS>>\n\n"
        " What is 2 + 2? [/INST] It is 4. </s>"
    )
    special = engine.tokenizer.bos_token_id, engine.tokenizer.eos_token_id
    ids = [token for token in tokens.sequences[0] if token in special]
    assert ids == [special[0], special[0], special[1]]


def test_llama_2_chat_over_several_turns_and_without_a_system_prompt():
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "See you."},
    ]
    assert rendered(turns) == (
        "<s>[INST] Hi [/INST] Hello. </s><s>[INST] Bye [/INST] See you. </s>"
    )
    with pytest.raises(TemplateError, match="user, assistant"):
        rendered(turns[1:])


def test_without_the_setting_a_template_decides_on_its_own_bos():
    family = Family.of("rm", {"m": "lm"})
    engine = SimpleNamespace(
        family=family,
        tokenizer=llama_tokenizer(),
        max_tokens=2048,
        reward_at="end",
        pad_token=None,
    )
    (ids,) = tokenise(engine, "Hi", ["Hello."]).sequences
    assert ids.count(engine.tokenizer.bos_token_id) == 1
