"""python -m dogerm bench: a benchmark's rows under many recipes, resumable, by one process or many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dogerm.cli.options import (
    Device,
    Dtype,
    FamilyName,
    In4bit,
    In8bit,
    Layers,
    Lms,
    MethodName,
    Parent,
    Parts,
    Rm,
    Settings,
    Shares,
    engine_of,
    family_of,
    quantised_of,
    recipe_of,
)
from dogerm.cli.terminal import (
    INTERRUPTED,
    Commands,
    counts,
    group,
    print_results,
    progress,
    rows_progress,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dogerm.benchmarks.benchmark import Benchmark
    from dogerm.benchmarks.data import Dataset
    from dogerm.benchmarks.data import Settings as Rules
    from dogerm.benchmarks.generate import Sampling
    from dogerm.family import Family
    from dogerm.recipe import Recipe


class _ByName(Commands):
    """Takes the name of any benchmark as a command, so that --help need not load them."""

    def get_command(self, ctx: typer.Context, name: str):
        return super().get_command(ctx, name) or super().get_command(ctx, "NAME")


bench = group(
    "Benchmarks: rewardbench, rewardbench2, autoj, gsm8k, mbpp, humaneval, pairs.",
    _ByName,
)


@bench.command("NAME")
def run_benchmark(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the store and the report.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The rows: JSON Lines, CSV or Parquet."),
    ] = None,
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Dtype = None,
    load_in_8bit: In8bit = False,
    load_in_4bit: In4bit = False,
    lam: Annotated[
        str, typer.Option("--lam", metavar="START:STOP:STEP|A,B,C", help="The λ grid.")
    ] = "0:1:0.05",
    share: Shares = None,
    mix: Annotated[
        float | None,
        typer.Option(
            "--mix",
            metavar="STEP",
            help="Every mix of the domains in steps of this, instead of --share.",
        ),
    ] = None,
    method: MethodName = "linear",
    set: Settings = None,
    parent: Parent = None,
    layers: Layers = "constant",
    part: Parts = None,
    too_long: Annotated[
        Literal["error", "skip", "cut", "cut-end"] | None,
        typer.Option(
            "--too-long",
            help="What to do with a conversation over the model's limit.",
            show_default="the preset's, for the family",
        ),
    ] = None,
    preset: Annotated[
        Literal["paper", "corrected"],
        typer.Option(help="As the reference does it, or as it meant it."),
    ] = "paper",
    bad_rows: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="What to do at a row that cannot be used."),
    ] = "stop",
    revision: Annotated[
        str | None, typer.Option(help="Of the hub set.", show_default="newest")
    ] = None,
    xstest: Annotated[
        Literal["upstream", "dogerm"] | None,
        typer.Option(
            help="Whose XSTest weights RewardBench has.", show_default="the preset's"
        ),
    ] = None,
    ns: Annotated[
        str, typer.Option(metavar="N,N,…", help="Best-of-N: how many candidates.")
    ] = "1,2,4,8,16",
    generate: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Sample the candidates for the problems in --data from this causal LM.",
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="How: temperature, top_p, max_tokens, system, prefix, together.",
            show_default="the paper's",
        ),
    ] = None,
    allow_code_execution: Annotated[
        bool,
        typer.Option(
            "--allow-code-execution", help="MBPP, HumanEval: run the candidates."
        ),
    ] = False,
    seconds: Annotated[
        int, typer.Option(min=1, help="CPU time that a candidate program gets.")
    ] = 3,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Programs run at a time.", show_default="cores"),
    ] = None,
    validation: Annotated[
        float,
        typer.Option(
            help="Share of the rows that λ is chosen on; the rest is reported."
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the split and the bootstrap.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped.")
    ] = False,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Padded tokens of one pass.", show_default="by free memory"
        ),
    ] = None,
) -> None:
    """Score a benchmark's rows at every λ, and report.

    Every reward is on disk before the next batch begins: after Ctrl-C, a kill or a power
    cut, the same command with --resume goes on. Under `accelerate launch` or torchrun the
    processes share the rows and the λs.
    """
    from dogerm.benchmarks.benchmark import BENCHMARKS
    from dogerm.benchmarks.data import Settings as Rules
    from dogerm.benchmarks.group import Group
    from dogerm.benchmarks.results import Results
    from dogerm.benchmarks.run import check_folder, depends_on, run
    from dogerm.rows import tokenise_rows

    if ctx.info_name not in BENCHMARKS:
        raise typer.BadParameter(
            f"there is no benchmark {ctx.info_name!r}; there are {', '.join(BENCHMARKS)}."
        )
    benchmark = BENCHMARKS[ctx.info_name]
    processes = Group()
    first = processes.rank == 0
    if processes.meant_several:
        say(
            "warning: accelerate was asked for several processes and started only this "
            "one, as it does with --cpu. With --multi_gpu it starts them on a CPU too."
        )
    with processes.together():
        models = family_of(family, rm, lm, parent).under(preset)
        quantised = quantised_of(load_in_8bit, load_in_4bit)
        recipes = _recipes(models, lam, share, mix, method, set, layers, part)
        rules = Rules(
            data=data,
            revision=revision,
            preset=preset,
            bad_rows=bad_rows,
            xstest=xstest,
            ns=_numbers(ns),
            allow_code_execution=allow_code_execution,
            seconds=seconds,
            workers=workers,
            verdicts=out / "verdicts.jsonl",
            validation=validation,
            seed=seed,
        )
        if sample and not generate:
            raise typer.BadParameter("--sample says how to --generate; name a MODEL.")
        how = _sampling(benchmark.name, sample, rules) if generate else None
        if first:
            check_folder(out, resume)
        if first and generate:
            made, where = out / "candidates.jsonl", processes.device(device)
            _generate(benchmark, rules, generate, made, how, where, resume)
            rules = replace(rules, data=made)
    # By one, whose files they are; another machine might judge a slow program otherwise.
    dataset = processes.from_first(lambda: _read(benchmark, rules))
    with processes.together():
        device = processes.device(device)
        engine = engine_of(models, device, dtype, quantised, method)
        too_long = too_long or benchmark.too_long(models, preset)
        tokens = tokenise_rows(engine, dataset.rows, too_long)
    about = depends_on(benchmark, rules, dataset)
    left_out = about["dataset"]["left_out"]
    step = None
    try:
        with rows_progress(processes) as show:
            for step in run(
                engine, tokens, recipes, out, about, resume, batch_tokens, processes
            ):
                show(step)
    except KeyboardInterrupt:
        done = f"{step.done} of {step.total}" if step else "no"
        say(
            f"Stopped: {done} rows are scored and safe in {out}. Go on with the "
            "same command and --resume."
        )
        raise typer.Exit(INTERRUPTED) from None
    processes.leave()
    if first:
        results = Results.of(out)
        results.write(out)
        print_results(results)
        also = f", {sum(left_out.values())} rows left out" if left_out else ""
        say(
            f"Scored {counts(tokens)}{also} under {len(recipes)} recipes; "
            f"wrote {out / 'report.json'} and report.html."
        )


@bench.command("report")
def report(
    directory: Annotated[Path, typer.Argument(help="The --out of a benchmark.")],
) -> None:
    """The tables of a run, beside the published numbers, from its store alone.

    Writes report.json, .csv, .parquet and .html, rows.jsonl and rows.parquet into the
    folder, and no model is loaded. Recipes that are not finished are named and left out.
    """
    from dogerm.benchmarks.results import Results

    results = Results.of(directory)
    written = results.write(directory)
    print_results(results)
    say(f"Wrote {', '.join(map(str, written))}.")


def _recipes(
    family: Family,
    lam: str,
    share: Sequence[str] | None,
    mix: float | None,
    method: str,
    settings: Sequence[str] | None,
    layers: str,
    parts: Sequence[str] | None,
) -> list[Recipe]:
    """Recipe by recipe as they are run; λ = 0, the reward model whatever the mix, once."""
    from dogerm.recipe import lam_grid, mix_grid

    if mix is not None and share:
        raise typer.BadParameter("--mix goes over all shares; leave out --share.")
    mixes = (
        [share]
        if mix is None
        else [
            [f"{name}={part}" for name, part in shares.items()]
            for shares in mix_grid(list(family.lms), mix)
        ]
    )
    every = [
        recipe_of(family, at, own, method, settings, layers, parts)
        for own in mixes
        for at in lam_grid(lam)
    ]
    plain = next((recipe for recipe in every if recipe.lam == 0), None)
    return [recipe for recipe in every if recipe.lam > 0 or recipe is plain]


def _read(benchmark: Benchmark, rules: Rules) -> Dataset:
    """The rows; where programs are run for them, how many have been."""
    with progress("Running programs") as advance:
        done = 0

        def show(now: int, total: int) -> None:
            nonlocal done
            advance(now - done, total)
            done = now

        return benchmark.read(replace(rules, on_progress=show))


def _sampling(name: str, given: Sequence[str] | None, rules: Rules) -> Sampling:
    """The reference's sampling for a benchmark, but for what is given as KEY=VALUE."""
    from dogerm.benchmarks.generate import SAMPLING

    if name not in SAMPLING:
        raise typer.BadParameter(
            f"{name} has no candidates to --generate; {', '.join(SAMPLING)} have."
        )
    if rules.data is None:
        raise typer.BadParameter("--generate needs the problems: --data FILE.")
    kinds = {
        "temperature": float,
        "top_p": float,
        "max_tokens": int,
        "together": int,
        "system": str,
        "prefix": str,
    }
    changes: dict[str, Any] = {"n": rules.ns[-1], "seed": rules.seed}
    for text in given or ():
        key, _, value = text.partition("=")
        try:
            changes[key] = kinds[key](value)
        except (KeyError, ValueError):
            raise typer.BadParameter(
                f"--sample is KEY=VALUE with one of {', '.join(kinds)}, got {text!r}."
            ) from None
    return replace(SAMPLING[name], **changes)


def _generate(
    benchmark: Benchmark,
    rules: Rules,
    model: str,
    out: Path,
    how: Sampling,
    device: str,
    resume: bool,
) -> None:
    """The candidate file, with a bar of the problems that are done."""
    import torch

    from dogerm.benchmarks.generate import generate

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "float32" if device == "cpu" else "float16"  # the paper's
    with progress("Sampling candidates") as advance:
        done = 0

        def show(now: int, total: int) -> None:
            nonlocal done
            advance(now - done, total)
            done = now

        generate(
            benchmark.name, rules.data, model, out, how, device, dtype, resume, show
        )
    if device != "cpu":
        torch.cuda.empty_cache()  # the reward model comes next


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--ns is like 1,2,4,8,16, got {text!r}.") from None
