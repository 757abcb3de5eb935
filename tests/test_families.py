"""Families are files."""

from types import SimpleNamespace

import pytest
from conftest import byte_tokenizer
from tokenizers.processors import TemplateProcessing

from dogerm.errors import FamilyError, RecipeError
from dogerm.family import Family
from dogerm.recipe import Recipe
from dogerm.scoring import tokenise


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
    with pytest.raises(FamilyError, match="no family 'nope'"):
        Family.load("nope")


def llama_tokenizer():
    """One token a byte; like Llama-2's it puts a BOS before what it is given."""
    tokenizer = byte_tokenizer()
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    return tokenizer


def test_without_the_setting_a_template_decides_on_its_own_bos():
    family = Family.of("rm", {"m": "lm"})
    engine = SimpleNamespace(
        family=family, tokenizer=llama_tokenizer(), max_tokens=2048
    )
    (ids,) = tokenise(engine, "Hi", ["Hello."]).sequences
    assert ids.count(engine.tokenizer.bos_token_id) == 1


def test_a_family_can_ask_for_the_bos_that_its_reward_model_was_trained_with():
    family = Family.of("rm", {"m": "lm"}, add_special_tokens=True)
    engine = SimpleNamespace(
        family=family, tokenizer=llama_tokenizer(), max_tokens=2048
    )
    (ids,) = tokenise(engine, "Hi", ["Hello."]).sequences
    assert ids.count(engine.tokenizer.bos_token_id) == 2
