"""The page's endpoints, for gradio_client and for agents, and the fold that shows how to call them."""

# Their annotations are read when they are registered, so they are no strings here.

import html
import os
from collections.abc import Mapping
from typing import Any

import gradio as gr

from dogerm import sweep
from dogerm.benchmarks import pairs as benchmark
from dogerm.errors import InputError
from dogerm.provenance import described
from dogerm.recipe import checked_lam
from dogerm.rows import Row, check_pairs, row_of, tokenise_rows
from dogerm.ui.controls import Request
from dogerm.ui.limits import Limits
from dogerm.ui.playground import ENGINE, LONG, compare, errors_for_people, paced
from dogerm.ui.studio import Studio

PAIRS_LAMS = tuple(step / 10 for step in range(11))
# What each endpoint is for, and its arguments as one writes them.
CALLS = {
    "score": (
        "Rewards of each response, from the base reward model and from DogeRM.",
        '"2x+3=11?", ["x=4", "x=7"], 0.6, {shares}',
    ),
    "curve": (
        "Rewards at every λ, and where the best response changes.",
        '"2x+3=11?", ["x=4", "x=7"], {shares}',
    ),
    "pairs": (
        "How often the chosen response gets the higher reward, at every λ, with 95% intervals.",
        '[{{"prompt": "2x+3=11?", "chosen": "x=4", "rejected": "x=7"}}], {shares}, [0, 0.5, 1]',
    ),
    "merge_report": (
        "What a merge keeps, which tokens it appends, and from which files it is made.",
        "{shares}, 0.6",
    ),
}

# ADDRESS is the page's, which only the browser knows.
CONNECT = """from gradio_client import Client

client = Client("ADDRESS")"""
MCP = """{
  "mcpServers": {"dogerm": {"url": "ADDRESS/gradio_api/mcp/"}}
}"""


def build(studio: Studio, limits: Limits, mcp: bool = False) -> None:
    """The fold that shows how programs call this page, and the endpoints that they call."""
    with gr.Accordion("API", open=False, elem_id="api") as fold:
        gr.HTML(_fold(studio, mcp), padding=False)
    # What a closed fold holds is not in the page before it opens.
    fold.expand(None, None, None, js="() => dogerm.api()")
    _endpoints(studio, limits)


def _endpoints(studio: Studio, limits: Limits) -> None:
    """Gradio and agents read what each is for in its docstring, a line for an argument."""

    def score(
        instruction: str,
        responses: list[str],
        lam: float,
        shares: dict[str, float],
        method: str = "linear",
        options: dict[str, float] | None = None,
        layers: str = "constant",
        parts: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """Rewards of responses to one instruction, from a plain reward model and from DogeRM.

        DogeRM is the reward model merged with domain language models; the higher the
        reward, the better the response. Only differences between the rewards of one model
        mean something, and rewards of two models are not to be compared.

        Args:
            instruction: what the responses answer.
            responses: 2 to 8 texts to compare.
            lam: from 0 (the plain reward model) to 1 (its weights all from the domain models).
            shares: how much of each domain's model, by name, for example {"math": 1}; {} for the defaults.
            method: how weights are merged; linear is the paper's.
            options: of the method, for example {"density": 0.5}; its defaults if left out.
            layers: how λ goes over the layers: constant, ramp, ramp-down, middle, or a number for each like 0,0.5,1.
            parts: what λ is multiplied with in attention, mlp, norms or embeddings, for example {"attention": 0.5}; 1 if left out.

        Returns:
            base and merged, a reward per response; the recipe; and the formula in words.
        """
        with errors_for_people():
            recipe = studio.family.recipe(
                lam,
                _mapping("shares", shares),
                method,
                _mapping("options", options),
                layers,
                _mapping("parts", parts),
            )
            limits.check_texts(instruction, _list("responses", responses))
            frame = compare(studio.engine, Request(recipe, instruction, responses))
            return {
                "base": frame["base"],
                "merged": frame["merged"],
                "recipe": recipe.to_json(),
                "formula": recipe.formula,
            }

    def curve(
        instruction: str,
        responses: list[str],
        shares: dict[str, float],
        lams: list[float] | None = None,
        method: str = "linear",
        options: dict[str, float] | None = None,
        layers: str = "constant",
        parts: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """Rewards of responses to one instruction at every λ, and where the best one changes.

        Args:
            instruction: what the responses answer.
            responses: 2 to 8 texts to compare.
            shares: how much of each domain's model, by name, for example {"math": 1}; {} for the defaults.
            lams: numbers from 0 (the plain reward model) to 1; 0 to 1 by 0.05 if left out.
            method: how weights are merged; linear is the paper's.
            options: of the method, for example {"density": 0.5}; its defaults if left out.
            layers: how λ goes over the layers: constant, ramp, ramp-down, middle, or a number for each like 0,0.5,1.
            parts: what λ is multiplied with in attention, mlp, norms or embeddings, for example {"attention": 0.5}; 1 if left out.

        Returns:
            lams; rewards, a list per λ with a reward per response; flips, the λ at which the best response changes from index before to index after.
        """
        with errors_for_people():
            limits.check_texts(instruction, _list("responses", responses))
            limits.check_lams(lams)
            found = sweep.curve(
                studio.engine,
                instruction,
                responses,
                _mapping("shares", shares),
                lams,
                method,
                _mapping("options", options),
                layers,
                _mapping("parts", parts),
            )
            return found.to_json()

    # A generator, so that a caller sees progress, and the work ends when the caller leaves.
    # Annotated with what it yields, which is what Gradio takes for the type of the answer.
    def pairs(
        rows: list[dict[str, Any]],
        shares: dict[str, float],
        lams: list[float] | None = None,
        method: str = "linear",
        options: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """How often DogeRM rewards the chosen response above the rejected one, at every λ.

        Args:
            rows: preference pairs, each {"prompt": text, "chosen": text, "rejected": text}, with "domain": text if accuracy is wanted by domain too.
            shares: how much of each domain's model, by name, for example {"math": 1}; {} for the defaults.
            lams: numbers from 0 (the plain reward model) to 1; 0 to 1 by 0.1 if left out.
            method: how weights are merged; linear is the paper's.
            options: of the method, for example {"density": 0.5}; its defaults if left out.

        Returns:
            a report: recipes, each with lam and metrics, which holds accuracy, n, ties and the 95% interval from low to high for every domain and Overall; skipped, the rows that are too long for the model, with the reason.
        """
        with errors_for_people():
            limits.check_lams(lams)
            recipe = studio.family.recipe(
                0, _mapping("shares", shares), method, _mapping("options", options)
            )
            recipes = [recipe.with_lam(lam) for lam in _grid(lams)]
            engine = studio.engine
            tokens = tokenise_rows(engine, _rows(rows, limits), "skip")
            total = len(recipes) * tokens.responses
            steps = sweep.sweep_in_batches(engine, recipes, tokens.scored)
            for done, found in paced(steps):
                yield {"done": done, "total": total}
            rewards = [tokens.spread(own) for own in found]
            report = benchmark.report(engine, tokens, recipes, rewards)
            skipped = {tokens.rows[i].where: why for i, why in tokens.skipped.items()}
            told = {"family": described(limits.told(engine.family)), "skipped": skipped}
            yield report.to_json() | told

    def merge_report(
        shares: dict[str, float],
        lam: float,
        method: str = "linear",
        options: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """What a merge does to the reward model: which weights are merged, what is kept, from which files.

        Args:
            shares: how much of each domain's model, by name, for example {"math": 1}; {} for the defaults.
            lam: from 0 (the plain reward model) to 1 (its weights all from the domain models).
            method: how weights are merged; linear is the paper's.
            options: of the method, for example {"density": 0.5}; its defaults if left out.

        Returns:
            recipe and formula; coefficients, each model's part; merged and kept, names of parameters; appended, tokens that only domain models have; rows of the embedding table; seconds that the merge took; dtype and device; warnings on how the models fit together; family; models, with the SHA-256 of their files.
        """
        with errors_for_people():
            recipe = studio.family.recipe(
                lam, _mapping("shares", shares), method, _mapping("options", options)
            )
            engine = studio.engine
            with engine.using(recipe):
                done = engine.report
            told = limits.told(engine.family)
            sources = {"rm": told.rm, **told.lms}
            return {
                "recipe": recipe.to_json(),
                "formula": recipe.formula,
                "coefficients": recipe.coefficients,
                "merged": list(done.merged),
                "kept": list(done.kept),
                "appended": list(done.appended),
                "rows": engine.fit.vocabulary.size,
                "seconds": done.seconds,
                "dtype": engine.dtype,
                "device": engine.plan.device,
                "warnings": list(engine.fit.warnings),
                "family": described(told),
                "models": {
                    name: model | {"source": sources[name]}
                    for name, model in studio.files().items()
                    if name in sources
                },
            }

    gr.api(score, **ENGINE)
    gr.api(curve, **ENGINE)
    gr.api(pairs, **LONG)
    gr.api(merge_report, **ENGINE)


def _rows(rows: Any, limits: Limits) -> list[Row]:
    """The pairs of a call, its slips named by their place in the list."""
    if not _list("rows", rows):
        raise InputError("rows is empty. Give at least one pair.")
    limits.check_pairs(len(rows))
    found = []
    for number, row in enumerate(rows, 1):
        where = f"row {number}"
        if not isinstance(row, Mapping):
            raise InputError(
                f"{where}: this should be a mapping with prompt, chosen and rejected, "
                f"got {row!r:.80}."
            )
        found.append(row_of(row, where))
    check_pairs(found)
    return found


def _grid(lams: Any) -> tuple[float, ...]:
    """The λs of a call, or 0 to 1 by 0.1; one alone is enough for pairs."""
    if lams is None:
        return PAIRS_LAMS
    if not _list("lams", lams):
        raise InputError("lams is empty. Give at least one λ, or leave it out.")
    return tuple(sorted({checked_lam(lam) for lam in lams}))


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list, got {value!r:.80}.")
    return value


def _mapping(name: str, value: Any) -> Mapping[str, Any] | None:
    """The family's or the method's defaults when none are given; {} and None both mean none."""
    examples = {
        "shares": {"math": 1, "code": 0.5},
        "options": {"density": 0.5},
        "parts": {"attention": 0.5},
    }
    example = examples[name]
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{name} must be a mapping like {example}, got {value!r:.80}.")
    return value or None


def _fold(studio: Studio, mcp: bool) -> str:
    domain = next(iter(studio.family.lms))
    calls = [
        (name, sentence, arguments.format(shares=f'{{"{domain}": 1}}'))
        for name, (sentence, arguments) in CALLS.items()
    ]
    blocks = [_written("Connect", "In Python, with gradio_client.", CONNECT)]
    for name, sentence, arguments in calls:
        code = f'client.predict({arguments}, api_name="/{name}")'
        blocks.append(_written(name, sentence, code))
    if mcp:
        blocks.append(_written("MCP", "For agents: the same four, as tools.", MCP))
    space = html.escape(os.environ.get("SPACE_ID", ""))
    return f"""
    <section id="api-calls" data-space="{space}">
      <p class="lead">Programs call this page at its own address. A call carries its recipe,
        as a click does, and gets the same numbers.
        <a href="?view=api">Every parameter, with its type</a></p>
      <div class="calls">{"".join(blocks)}</div>
    </section>"""


def _written(name: str, sentence: str, code: str) -> str:
    own = 'translate="no"' if name in CALLS else ""
    return f"""
    <figure class="written">
      <figcaption><span {own}>{name}</span>
        <button type="button" class="copy" aria-label="Copy {name}">Copy</button></figcaption>
      <p>{html.escape(sentence)}</p>
      <pre translate="no" tabindex="0">{html.escape(code)}</pre>
    </figure>"""
