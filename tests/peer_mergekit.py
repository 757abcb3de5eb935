"""Do our methods and mergekit's give the same weights? Run by hand, with mergekit apart.

    python3 -m venv mergekit-env && mergekit-env/bin/pip install mergekit==0.1.5
    PYTHONPATH=. python tests/peer_mergekit.py mergekit-env/bin/python --json FILE

Random Llamas in float32: a parent, and a reward model and two LMs around it whose task
vectors partly agree. Each case is merged by us with `Sources.merge_into` and by mergekit
with `merge_tensors`, whose settings are those of the YAML that `dogerm.mergekit` writes,
evaluated for every parameter by mergekit's own `evaluate_setting`. So the cases hold the
writer to account as well. DARE and DELLA are given the same random numbers.

Where the largest difference is not rounding:

- karcher: mergekit stops when a step is below 1e-5 or after ten; we go on to 1e-7.
- dare_linear, dare_ties: mergekit scales what is left of a task vector so that the sum of
  its sizes is kept; we divide by the density, as the paper does. With `rescale: false`
  and the density divided out by hand ("our scale") both agree.
- della_linear, della: the same; the paper, and we, divide each entry by its own chance.
- model_stock, opposing task vectors: mergekit lets the mean cosine be negative and steps
  past the parent; we take 0, which is the parent.
- layers, ties with density below 1: at a weight of exactly 0 mergekit still prunes the
  reward model's task vector, as a file says it must; we keep the reward model there.
- arcee_fusion: it adds 1e-8 to both distributions; an entry at the threshold may fall on
  the other side, and then differs by what the LM differs. Above a million entries it
  estimates the quartiles from a sample; these checkpoints are smaller.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PEER = """
import json, sys, zlib
import torch, yaml
from mergekit.config import evaluate_setting, ConditionalParameter
from mergekit.merge_methods import get
from mergekit.merge_methods.api import merge_tensors
from mergekit.merge_methods.base import ParameterScope
from safetensors.torch import load_file, save_file

job = json.loads(sys.argv[1])
models = {source: load_file(source + "/model.safetensors") for source in job["sources"]}
drawn = {"name": "", "queue": []}

def bernoulli(chances):
    own = zlib.crc32(f"0/{drawn['queue'].pop(0)}/{drawn['name']}".encode())
    numbers = torch.rand(chances.shape, generator=torch.Generator().manual_seed(own))
    return (numbers < chances).to(chances.dtype)

torch.bernoulli = bernoulli

def conditional(setting):
    if isinstance(setting, list) and setting and isinstance(setting[0], dict):
        return [ConditionalParameter(**part) for part in setting]
    return setting

for case in job["cases"]:
    config = yaml.safe_load(case["yaml"])
    method = get(config["merge_method"])
    listed = {m["model"]: m.get("parameters", {}) for m in config["models"]}
    base = config.get("base_model")
    order = list(listed) if base in (None, *listed) else [base, *listed]
    shared = config.get("parameters", {})
    result = {}
    for name, layer in case["layers"].items():
        t = 0.0 if layer is None else layer / max(1, job["layers"] - 1)
        def value(spec, scopes):
            for scope in scopes:
                if spec.name in scope:
                    return evaluate_setting(name, conditional(scope[spec.name]), t, validate=spec.validate)
            return spec.default
        parameters = {s.name: value(s, [shared]) for s in method.spec.shared_parameters}
        for s in method.spec.input_parameters:
            whom = [m for m in order if m != base or s.scope == ParameterScope.INPUT]
            parameters[s.name] = {m: value(s, [listed.get(m, {}), shared]) for m in whom}
        drawn["name"], drawn["queue"] = name, list(case["draws"])
        result[name] = merge_tensors(
            [models[m][name] for m in order], method, parameters=parameters, ids=order,
            base_index=None if base is None else order.index(base), name=name,
        ).contiguous()
    save_file(result, case["out"])
from importlib.metadata import version
print(json.dumps({p: version(p) for p in ("mergekit", "torch")}))
"""
# What rounding in float32 makes of values up to 1 after some dozen operations.
ROUNDING = 5e-6


def checkpoints(root: Path, opposed: bool) -> Any:
    """A family of random Llamas; with `opposed`, the LMs lie on the other side of the parent."""
    import torch
    from conftest import byte_tokenizer, llama_config
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    from dogerm.family import Family

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = llama_config(len(tokenizer), num_labels=1, tie_word_embeddings=False)
    config.num_hidden_layers, config.hidden_size, config.head_dim = 4, 64, 16
    parent = LlamaForCausalLM(config)
    state = {n: t + 0.1 * torch.randn_like(t) for n, t in parent.state_dict().items()}
    shared = {n: 0.05 * torch.randn_like(t) for n, t in state.items()}
    for name, side in {"parent": 0, "rm": 1, "code": 1, "math": 1}.items():
        kind = LlamaForSequenceClassification if name == "rm" else LlamaForCausalLM
        model = kind(config)
        sign = -1 if opposed and name != "rm" else 1
        own = {
            n: t + side * (sign * shared[n] + 0.05 * torch.randn_like(t))
            for n, t in state.items()
        }
        model.load_state_dict(own, strict=False)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    lms = {name: root / name for name in ("code", "math")}
    return Family.of(root / "rm", lms, parent=str(root / "parent"))


def cases() -> list[tuple[str, Any, dict[str, Any], str]]:
    """(name, recipe, settings of mergekit's that replace the written ones, what explains a difference)."""
    from dogerm.merge import METHODS
    from dogerm.mergekit import FORMS
    from dogerm.recipe import Recipe

    found = []
    for method, form in FORMS.items():
        shares = {"math": 1} if form.one_lm else {"math": 2, "code": 1}
        lam = 0.35
        if form.weights == "whole":
            shares = dict.fromkeys(shares, 1)
            lam = len(shares) / (len(shares) + 1) if method == "karcher" else 1
        options = {}
        if "density" in METHODS[method].options:
            options["density"] = 0.6
        recipe = Recipe(round(lam, 12), shares, method, options)
        why = {
            "dare_linear": "it keeps the sum of sizes, we divide by the density",
            "dare_ties": "it keeps the sum of sizes, which tips near elections of a sign",
            "karcher": "it stops at a step of 1e-5, we at 1e-7",
            "della_linear": "it keeps the sum of sizes, we divide by each entry's chance",
            "della": "it keeps the sum of sizes, we divide by each entry's chance",
        }.get(method, "")
        found.append((method, recipe, {}, why))
    scaled = {"rescale": False, "lambda": 1 / 0.6}
    dare = Recipe(0.35, {"math": 2, "code": 1}, "dare_ties", {"density": 0.6})
    found.append(("dare_ties, our scale", dare, scaled, ""))
    linear = Recipe(0.35, {"math": 2, "code": 1}, "dare_linear", {"density": 0.6})
    found.append(
        ("dare_linear, our scale", linear, {"rescale": False, "weight / 0.6": True}, "")
    )
    rows = Recipe(0.35, {"math": 1}, "nuslerp", {"rows": 1})
    found.append(("nuslerp, rows", rows, {}, ""))
    reach = {
        "layers": "middle",
        "parts": {"attention": 0.5, "norms": 0, "embeddings": 0.25},
    }
    for method in ("linear", "task_arithmetic", "multislerp"):
        recipe = Recipe(0.8, {"math": 2, "code": 1}, method, **reach)
        found.append((f"{method}, layers and parts", recipe, {}, ""))
    for layers in ("ramp-down", "0.25,0.5,0.75,1"):
        recipe = Recipe(0.8, {"math": 1}, "slerp", layers=layers)
        found.append((f"slerp, layers {layers}", recipe, {}, ""))
    pruned = Recipe(0.8, {"math": 1}, "ties", {"density": 0.6}, layers="ramp")
    found.append(
        ("ties, layers ramp", pruned, {}, "at weight 0 it prunes, we keep the RM")
    )
    return found


def ours(family: Any, recipe: Any) -> dict[str, Any]:
    import torch

    from dogerm.compatibility import compare
    from dogerm.sources import Sources, open_models

    rm, lms = open_models(family, parent=True)
    fit = compare(rm, lms)
    sources, merged = Sources(rm, lms, fit), {}
    for name in fit.merged:
        merged[name] = torch.empty(rm.tensors[name].shape)
        sources.merge_into(merged[name], name, recipe)
    return merged


def rewritten(text: str, changes: dict[str, Any], rm: str) -> str:
    import yaml

    data = yaml.safe_load(text)
    if changes.pop("weight / 0.6", False):
        for model in data["models"]:
            if model["model"] != rm:
                model["parameters"]["weight"] /= 0.6
    data.setdefault("parameters", {}).update(changes)
    return yaml.safe_dump(data, sort_keys=False)


def compared(
    family: Any, chosen: list[Any], python: str, root: Path
) -> tuple[list[Any], Any]:
    """Rows of numbers, and mergekit's versions."""
    import torch
    from safetensors.torch import load_file

    from dogerm.checkpoint import Checkpoint, anatomy_of
    from dogerm.mergekit import FORMS, to_yaml

    anatomy = anatomy_of(Checkpoint(family.rm, "rm"))
    layers = {n: p.layer if p.inside else None for n, p in anatomy.places.items()}
    job: dict[str, Any] = {
        "sources": [family.rm, family.parent, *family.lms.values()],
        "layers": anatomy.layers,
        "cases": [],
    }
    for index, (_, recipe, changes, _) in enumerate(chosen):
        first = 0 if FORMS[recipe.method].weights == "added" else -1
        text = rewritten(to_yaml(family, recipe), dict(changes), family.rm)
        job["cases"].append(
            {
                "yaml": text,
                "layers": layers,
                "draws": list(range(first, len(recipe.shares))),
                "out": str(root / f"case{index}.safetensors"),
            }
        )
    done = subprocess.run(
        [python, "-c", PEER, json.dumps(job)],
        capture_output=True,
        text=True,
        check=False,  # what it says is shown below
    )
    if done.returncode:
        sys.exit(done.stderr)
    rows = []
    for case, (name, recipe, _, why) in zip(job["cases"], chosen):
        theirs, mine = load_file(case["out"]), ours(family, recipe)
        gaps = torch.cat([(theirs[n] - mine[n]).abs().flatten() for n in mine])
        rows.append(
            {
                "case": name,
                "recipe": recipe.to_json(),
                "largest_difference": gaps.max().item(),
                "mean_difference": gaps.mean().item(),
                "entries": gaps.numel(),
                "entries_beyond_rounding": int((gaps > ROUNDING).sum()),
                "why": why or None,
            }
        )
    return rows, json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", help="the interpreter that has mergekit")
    parser.add_argument("--json", type=Path, help="also write the table there")
    arguments = parser.parse_args()
    from dogerm.provenance import versions
    from dogerm.recipe import Recipe

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        family = checkpoints(root / "agreeing", opposed=False)
        rows, peer = compared(family, cases(), arguments.python, root)
        stock = Recipe(1, {"math": 1, "code": 1}, "model_stock")
        why = "a negative mean cosine: it steps past the parent, we take 0"
        opposed = [("model_stock, opposing", stock, {}, why)]
        family = checkpoints(root / "opposing", opposed=True)
        rows += compared(family, opposed, arguments.python, root)[0]
    unexplained = 0
    for row in rows:
        beyond = row["entries_beyond_rounding"]
        unexplained += bool(beyond and not row["why"])
        print(
            f"{row['case']:32} {row['largest_difference']:.1e} largest, {beyond:6} of "
            f"{row['entries']} beyond rounding  {row['why'] or ''}"
        )
    if arguments.json:
        table = {"rounding": ROUNDING, "versions": {"dogerm": versions(), "peer": peer}}
        text = json.dumps(table | {"rows": rows}, ensure_ascii=False, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return min(1, unexplained)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main())
