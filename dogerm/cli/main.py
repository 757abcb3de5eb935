"""The commands on models: demo, score, sweep, scan, suggest, merge, recipe, inspect, speed."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from dogerm.cli.options import (
    Device,
    Dtype,
    FamilyName,
    In4bit,
    In8bit,
    Input,
    Lam,
    Layers,
    Lms,
    MethodName,
    Parent,
    Parts,
    Rm,
    Settings,
    Shares,
    TooLong,
    anatomy_of,
    engine_of,
    family_of,
    quantised_of,
    read_mergekit,
    recipe_of,
    warn,
)
from dogerm.cli.terminal import (
    counts,
    few,
    group,
    left_out,
    output,
    print_inspection,
    print_speed,
    print_suggestion,
    progress,
    quieten,
    say,
    stderr_console,
    why_skipped,
    write_row,
)
from dogerm.errors import DeviceError

app = group(
    "Give a general reward model domain knowledge by merging it with domain LMs."
)


@app.command()
def demo(
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Dtype = None,
    load_in_8bit: In8bit = False,
    load_in_4bit: In4bit = False,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    share: Annotated[bool, typer.Option(help="A public link by Gradio.")] = False,
    public: Annotated[bool, typer.Option(help="Hardened, for strangers.")] = False,
    offline: Annotated[bool, typer.Option(help="Ask no host at all.")] = False,
    mcp: Annotated[bool, typer.Option(help="Tools for agents as well.")] = False,
    reports: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the page finds and keeps reports.",
            show_default="DOGERM_REPORTS, else ./reports",
        ),
    ] = None,
) -> None:
    """Serve the page on this machine, until interrupted."""
    from dogerm.ui import serve

    serve(
        family_of(family, rm, lm) if rm or lm else family or "nano",
        host=None,  # GRADIO_SERVER_NAME, else this machine only
        port=port,
        share=share,
        public=public,
        quantised=quantised_of(load_in_8bit, load_in_4bit),
        offline=offline,
        mcp=mcp,
        device=device,
        dtype=dtype,
        reports=reports,
    )


@app.command()
def score(
    input: Input,
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Dtype = None,
    load_in_8bit: In8bit = False,
    load_in_4bit: In4bit = False,
    lam: Lam = None,
    share: Shares = None,
    method: MethodName = "linear",
    set: Settings = None,
    layers: Layers = "constant",
    part: Parts = None,
    parent: Parent = None,
    too_long: TooLong = "error",
    out: Annotated[str | None, typer.Option(show_default="standard output")] = None,
) -> None:
    """Rewards of every row, by the base reward model and by the merged one.

    Writes each row with all its keys and the lists "base" and "merged" (for a pair:
    chosen first). A row that was skipped has null for both, and says why in "skipped".
    """
    from dogerm.benchmarks.pairs import metrics
    from dogerm.rows import read_rows, tokenise_rows
    from dogerm.sweep import sweep

    models = family_of(family, rm, lm, parent)
    quantised = quantised_of(load_in_8bit, load_in_4bit)
    recipe = recipe_of(models, lam, share, method, set, layers, part)
    rows = read_rows(input)
    with output(out) as file:
        engine = engine_of(models, device, dtype, quantised, method)
        tokens = tokenise_rows(engine, rows, too_long)
        recipes = [recipe.with_lam(0), recipe]
        with progress("Scoring", 2 * tokens.responses) as advance:
            found = sweep(engine, recipes, tokens.scored, advance)
        base, merged = (tokens.spread(rewards) for rewards in found)
        for index, row in enumerate(rows):
            own = {"base": base[index], "merged": merged[index]}
            write_row(file, row.data | own | why_skipped(tokens.skipped, index))
    before, after = (metrics(rows, r)["Overall"] for r in (base, merged))
    accuracy = f"; accuracy base {before}, merged {after}" if before.n else ""
    say(f"Scored {counts(tokens)} under {recipe}{accuracy}.")


@app.command()
def sweep(
    input: Input,
    out: Annotated[Path, typer.Option(help="Folder for report.json, rows.jsonl.")],
    lam: Annotated[
        str, typer.Option("--lam", metavar="START:STOP:STEP|A,B,C", help="The λ grid.")
    ] = "0:1:0.05",
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Dtype = None,
    load_in_8bit: In8bit = False,
    load_in_4bit: In4bit = False,
    share: Shares = None,
    method: MethodName = "linear",
    set: Settings = None,
    layers: Layers = "constant",
    part: Parts = None,
    parent: Parent = None,
    too_long: TooLong = "error",
) -> None:
    """Rewards of every row at every λ, and the accuracy of its pairs.

    Writes OUT/rows.jsonl, each row with "rewards" (a list for every λ), and
    OUT/report.json, the accuracies by the rows' domain with 95% intervals.
    """
    from dogerm.benchmarks import pairs
    from dogerm.recipe import lam_grid
    from dogerm.rows import read_rows, tokenise_rows
    from dogerm.sweep import sweep as run

    models = family_of(family, rm, lm, parent)
    quantised = quantised_of(load_in_8bit, load_in_4bit)
    recipe = recipe_of(models, 0, share, method, set, layers, part)
    recipes = [recipe.with_lam(at) for at in lam_grid(lam)]
    rows = read_rows(input)
    with output(out / "rows.jsonl") as rows_file:
        engine = engine_of(models, device, dtype, quantised, method)
        tokens = tokenise_rows(engine, rows, too_long)
        with progress("Sweeping", len(recipes) * tokens.responses) as advance:
            found = run(engine, recipes, tokens.scored, advance)
        found = [tokens.spread(rewards) for rewards in found]
        for index, row in enumerate(rows):
            own = None if index in tokens.skipped else [r[index] for r in found]
            skip = why_skipped(tokens.skipped, index)
            write_row(rows_file, row.data | {"rewards": own} | skip)
    report = pairs.report(engine, tokens, recipes, found)
    with output(out / "report.json") as file:
        json.dump(report.to_json(), file, ensure_ascii=False, indent=1)
        file.write("\n")
    say(f"Scored {counts(tokens)} at {len(recipes)} λs; wrote {out / 'report.json'}.")
    if report.recipes[0].metrics["Overall"].n:
        for point in dict.fromkeys((report.recipes[0], pairs.best(report))):
            say(f"λ = {point.recipe.lam:g}: {point.metrics['Overall']}")


@app.command()
def scan(
    input: Input,
    out: Annotated[
        Path, typer.Option(help="Folder for rows.jsonl, report.json, scan.html.")
    ],
    window: Annotated[
        int, typer.Option("--window", help="How many neighbouring layers at a time.")
    ] = 1,
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Dtype = None,
    load_in_8bit: In8bit = False,
    load_in_4bit: In4bit = False,
    lam: Lam = None,
    share: Shares = None,
    method: MethodName = "linear",
    set: Settings = None,
    layers: Layers = "constant",
    part: Parts = None,
    parent: Parent = None,
    too_long: TooLong = "error",
) -> None:
    """Where in the model does what flips a row sit? Merges a window of layers at a time.

    Writes OUT/rows.jsonl, each row with "scan" (the rewards and the flip with only the
    embeddings, then each window, merged), OUT/report.json, the accuracies of those
    merges, and OUT/scan.html, a chart of the mean margin.
    """
    from dogerm.benchmarks import pairs
    from dogerm.charts import layer_profile
    from dogerm.rows import read_rows, tokenise_rows
    from dogerm.scan import mean, spots
    from dogerm.scan import scan as run

    models = family_of(family, rm, lm, parent)
    quantised = quantised_of(load_in_8bit, load_in_4bit)
    recipe = recipe_of(models, lam, share, method, set, layers, part)
    places = spots(recipe, anatomy_of(models).layers, window)
    recipes = [recipe.with_lam(0), recipe, *(place.recipe for place in places)]
    rows = read_rows(input)
    with output(out / "rows.jsonl") as rows_file:
        engine = engine_of(models, device, dtype, quantised, method)
        tokens = tokenise_rows(engine, rows, too_long)
        with progress("Scanning", len(recipes) * tokens.responses) as advance:
            scored = run(engine, recipe, tokens.scored, window, advance)
        found = tokens.spread(scored)
        for index, row in enumerate(rows):
            own = None if index in tokens.skipped else found[index].to_json()
            skip = why_skipped(tokens.skipped, index)
            write_row(rows_file, row.data | {"scan": own} | skip)
    rewards = [[one.table[i] for one in scored] for i in range(len(recipes))]
    spread = [tokens.spread(own) for own in rewards]
    report = pairs.report(engine, tokens, recipes, spread)
    names = ["base", "all", *(place.name for place in places)]
    report = replace(report, settings={**report.settings, "spots": names})
    with output(out / "report.json") as file:
        json.dump(report.to_json(), file, ensure_ascii=False, indent=1)
        file.write("\n")
    say(f"Scanned {counts(tokens)} at {len(places)} spots; wrote {out}.")
    if not scored:
        return
    profile = mean(
        [
            one.profile(*((0, 1) if row.is_pair else one.contest))
            for row, one in zip(rows, found)
            if one is not None
        ]
    )
    paired = all(row.is_pair for row in rows)
    words = ("chosen", "rejected") if paired else ("preferred", "rival")
    with output(out / "scan.html") as file:
        file.write(layer_profile(profile, *words).to_html())
    most = profile.widest
    say(
        f"Mean margin: base {profile.base:+.4f}, all merged {profile.merged:+.4f}; most at "
        f"{profile.names[most]}: {profile.margins[most]:+.4f}, which alone flips "
        f"{profile.flips[most]} of {profile.rows} rows."
    )


@app.command()
def suggest(
    validation: Annotated[
        str, typer.Argument(metavar="VALID.jsonl", help="Pairs to choose on.")
    ],
    test: Annotated[
        str, typer.Argument(metavar="TEST.jsonl", help="Other pairs, to judge on.")
    ],
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Dtype = None,
    load_in_8bit: In8bit = False,
    load_in_4bit: In4bit = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="A method to choose from; once for each.",
            show_default="linear, slerp, nearswap",
        ),
    ] = None,
    parent: Parent = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Recipes to try beside plain linear's 21 λs.")
    ] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same search.")] = 0,
    too_long: TooLong = "error",
    out: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="Also everything as JSON.")
    ] = None,
) -> None:
    """λ, mix, method, options and layers, chosen on one file of pairs and judged on another.

    The suggestion is compared with plain linear at its own best λ, chosen on the same
    pairs, by a paired test on the held-out ones.
    """
    from dogerm.merge import METHODS, check_method
    from dogerm.rows import read_rows, tokenise_rows
    from dogerm.suggest import TRIED, check_pairs
    from dogerm.suggest import suggest as search
    from dogerm.sweep import GRID

    models = family_of(family, rm, lm, parent)
    quantised = quantised_of(load_in_8bit, load_in_4bit)
    methods = tuple(dict.fromkeys(method or TRIED))
    for name in methods:
        check_method(models.recipe(0, method=name), parent=models.parent is not None)
    files = [read_rows(validation), read_rows(test)]
    check_pairs(*files)
    with output(out) if out else nullcontext() as file:
        neediest = max(methods, key=lambda name: METHODS[name].needs_parent)
        engine = engine_of(models, device, dtype, quantised, neediest)
        choosing, judging = (tokenise_rows(engine, rows, too_long) for rows in files)
        with progress("Searching", len(GRID) + trials) as advance:
            found = search(
                engine,
                choosing,
                judging,
                methods,
                trials,
                seed,
                on_trial=lambda judged: advance(1),
            )
        if file:
            json.dump(found.to_json(), file, ensure_ascii=False, indent=1)
            file.write("\n")
    print_suggestion(found)


@app.command()
def merge(
    out: Annotated[Path, typer.Option(help="Folder, new or empty.")],
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="float32|bfloat16|float16", show_default="the reward model's"
        ),
    ] = None,
    load_in_8bit: In8bit = False,
    load_in_4bit: In4bit = False,
    lam: Lam = None,
    share: Shares = None,
    method: MethodName = "linear",
    set: Settings = None,
    layers: Layers = "constant",
    part: Parts = None,
    parent: Parent = None,
    mergekit: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.yaml",
            help="Models and recipe from a configuration of mergekit's instead.",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push-to-hub", metavar="ORG/NAME", help="Upload it to the hub as well."
        ),
    ] = None,
) -> None:
    """Write the merged reward model as an ordinary checkpoint.

    It is streamed: memory holds one parameter at a time, whatever the model's size.
    """
    from dogerm.export import check_repository, export, push_to_hub
    from dogerm.plan import size_text

    if push is not None:
        check_repository(push)
    if mergekit:
        own = [family, rm, lm, lam, share, set, part, parent]
        if any(own) or (method, layers) != ("linear", "constant"):
            raise typer.BadParameter(
                "--mergekit names the models and the recipe itself."
            )
        models, recipe, stored = read_mergekit(mergekit)
        dtype = dtype or stored
    else:
        models = family_of(family, rm, lm, parent)
        recipe = recipe_of(models, lam, share, method, set, layers, part)
    if quantised_of(load_in_8bit, load_in_4bit):
        raise DeviceError(
            "a merged checkpoint is written in 16 or 32 bits; quantise it when it is loaded."
        )
    quieten()
    with progress("Writing") as advance:
        written = export(
            models, recipe, out, dtype, device, on_progress=advance, on_fit=warn
        )
    known = "" if written.tokens_added else ", unknown to the tokenizer"
    print(
        f"Wrote {out}: {size_text(written.nbytes)} in {len(written.files)} file(s); "
        f"{len(written.merged)} parameters merged, {', '.join(written.kept)} kept, "
        f"left out: {left_out(written)}; tokens appended: {few(written.appended)}{known}."
    )
    if push:
        print(f"Uploaded: {push_to_hub(out, push)}")
    print(f"Load it: AutoModelForSequenceClassification.from_pretrained({str(out)!r})")


@app.command()
def recipe(
    form: Annotated[
        Literal["mergekit", "json", "python", "cli"],
        typer.Option("--as", help="How it is written."),
    ] = "mergekit",
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    dtype: Dtype = None,
    lam: Lam = None,
    share: Shares = None,
    method: MethodName = "linear",
    set: Settings = None,
    layers: Layers = "constant",
    part: Parts = None,
    parent: Parent = None,
) -> None:
    """Write a recipe down: as mergekit's YAML, JSON, Python, or a command. Merges nothing."""
    from dogerm.mergekit import to_yaml
    from dogerm.written import as_command, as_python

    models = family_of(family, rm, lm, parent)
    found = recipe_of(models, lam, share, method, set, layers, part)
    written = {
        "mergekit": lambda: to_yaml(models, found, dtype),
        "json": lambda: (
            json.dumps(found.to_json(), ensure_ascii=False, indent=1) + "\n"
        ),
        "python": lambda: as_python(models, found),
        "cli": lambda: as_command(models, found),
    }[form]()
    with output(None) as file:
        file.write(written)


@app.command()
def inspect(
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Dtype = None,
    load_in_8bit: In8bit = False,
    load_in_4bit: In4bit = False,
    method: MethodName = "linear",
    parent: Parent = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """How a family fits together and what memory it takes. Reads no weights.

    The plan has the parent in it when the method needs it.
    """
    from dogerm.inspection import inspect
    from dogerm.merge import METHODS

    quieten()
    models = family_of(family, rm, lm, parent)
    quantised = quantised_of(load_in_8bit, load_in_4bit)
    recipe_of(models, None, None, method, None)  # names a slip in the method
    needed = METHODS[method].needs_parent
    found = inspect(models, device, dtype, quantised, needed)
    if as_json:
        output(None)
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=2))
    else:
        print_inspection(found)


@app.command()
def speed(
    family: FamilyName = None,
    rm: Rm = None,
    lm: Lms = None,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="float32|bfloat16|float16", help="What is merged.")
    ] = "float16",
    load_in_8bit: In8bit = False,
    load_in_4bit: In4bit = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Merge checkpoints of this config.json's shapes instead: six bytes of "
            "disk for each of its parameters.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="reference|mergekit",
            help="Also time another's way, on the same checkpoints; repeatable.",
        ),
    ] = None,
    mergekit_python: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="The Python of the environment that has mergekit."
        ),
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Also as JSON.")
    ] = None,
) -> None:
    """Rates of this machine: merging against copying, scoring, a curve.

    Merging is measured on synthetic checkpoints of 240M parameters, which take 1.5 GB
    of the temporary folder meanwhile, in 16, 8 and 4 bits; a curve on the family.
    """
    from dogerm.speed import measure
    from dogerm.synthetic import config_at

    models = family_of(family, rm, lm)
    quantised = quantised_of(load_in_8bit, load_in_4bit)
    shapes = config_at(config) if config else None
    quieten()
    with stderr_console().status("Measuring …") as status:
        found = measure(
            models,
            device,
            dtype,
            quantised,
            shapes,
            against=tuple(dict.fromkeys(against or ())),
            mergekit_python=mergekit_python,
            on_step=status.update,
        )
    print_speed(found)
    if json_file:
        with output(json_file) as file:
            json.dump(found.to_json(), file, ensure_ascii=False, indent=1)
            file.write("\n")
