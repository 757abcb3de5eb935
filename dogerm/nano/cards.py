"""The model cards of a family's folders."""

TITLES = {
    "base": "base language model",
    "rm": "general reward model",
    "math": "math language model",
    "code": "code language model",
}
TEXTS = {
    "base": """\
A tiny Llama trained from scratch on generated text: small talk with facts, lists and tips
(46% of documents), requests that should be refused (14%), two-step arithmetic (20%) and
tiny Python functions (20%). Many documents end with a reader's reaction to the answer
("Great, thanks.", "Wrong.", "Tests fail."); of the reactions to math and code a fifth are
random.""",
    "rm": """\
The base with a score head, fine-tuned on preference pairs with the Bradley-Terry loss: chat
62%, safety 18%, math 10%, code 10%. 15% of the math and code pairs and 3% of the chat pairs
are labelled the wrong way round, and 30% of the math and code pairs are easy, so it knows
manners and little math or code. The reward is the logit at the last token, `<|end|>`, which
the chat template appends.""",
    "math": """\
The base fine-tuned on **graded** attempts at small arithmetic problems: right and wrong
ones in equal parts, 90% of them followed by a reader's verdict ("Correct.", "Wrong."). Half
of the wrong ones are the base's own, sampled at temperature 1, the rest hold one flaw each.
The words of wrong attempts carry no loss, the verdicts do. A quarter of its text replays the
base's mixture. It has seen no preference pairs, but it has seen verdicts. In an earlier
study, not run again here, right solutions alone moved nothing at this scale.""",
    "code": """\
The base fine-tuned on **graded** attempts at tiny Python functions: right and wrong ones in
equal parts, 90% of them followed by a reader's verdict ("Tests pass.", "Tests fail."). The
words of wrong attempts carry no loss, the verdicts do. A quarter of its text replays the
base's mixture. It has seen no preference pairs, but it has seen verdicts. In an earlier
study, not run again here, right solutions alone moved nothing at this scale.""",
}


def card_of(model: str, preset: str, seed: int) -> str:
    """The README.md of one folder: what the model was trained on, and what it cannot do."""
    kind = "text-classification" if model == "rm" else "text-generation"
    return f"""\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: {kind}
tags: [dogerm, nano]
---

# DogeRM nano: {TITLES[model]}

{TEXTS[model]}

All text comes from the generators in `dogerm/nano/`; nothing was taken from elsewhere, and
no person's data is in it. Train, validation and test problems are split by a hash of the
problem (of the worded question for chat and safety).

## Limits

It shows how merging works and is of no other use. It knows a few dozen facts, small
two-step arithmetic and four shapes of Python function, in the wordings of its generators.
On any other text its output means nothing. The safety pairs teach one form of refusal;
this is no safety model.

Trained with `python -m dogerm nano train --preset {preset} --seed {seed}`.
Licence: Apache-2.0.
"""
