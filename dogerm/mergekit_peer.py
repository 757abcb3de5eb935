"""One merge by mergekit, timed: run by mergekit's own interpreter, which has no dogerm.

Prints {"load": seconds, "merge": [seconds, …]} and writes the merged tensors. The settings,
one JSON argument, are those of `dogerm.peers.against_mergekit`.
"""

import json
import sys
import time
from pathlib import Path


def main(settings: dict) -> None:
    import torch
    from mergekit.merge_methods.api import merge_state_dicts
    from safetensors.torch import load_file, save_file

    def finish() -> None:
        if settings["device"].startswith("cuda"):
            torch.cuda.synchronize()

    def read(folder: str) -> dict:
        tensors = {}
        for file in sorted(Path(folder).glob("*.safetensors")):
            tensors |= load_file(file, device=settings["device"])
        return tensors

    torch.set_num_threads(settings["threads"])
    started = time.perf_counter()
    models = {name: read(folder) for name, folder in settings["models"].items()}
    finish()
    times = {"load": time.perf_counter() - started, "merge": []}
    lam = settings["lam"]
    parameters = {"weight": {"rm": 1 - lam, "lm": lam}, "normalize": False}
    for _ in range(settings["repeats"] + 1):  # the first is the warm-up
        started = time.perf_counter()
        with torch.no_grad():
            merged = merge_state_dicts(
                models,
                "linear",
                parameters=parameters,
                strict=False,
                dtype=torch.float32,
                out_dtype=torch.float16,
            )
        finish()
        times["merge"].append(time.perf_counter() - started)
    del times["merge"][0]
    save_file(
        {n: tensor.contiguous().cpu() for n, tensor in merged.items()}, settings["out"]
    )
    print(json.dumps(times))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
