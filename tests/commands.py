"""Runs `python -m dogerm` many times in processes of their own, having imported torch once."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Forks a process per command. It has loaded what every command would load.
_SERVER = """
import json, os, sys
import pandas, pyarrow.parquet, rich.progress
import dogerm.benchmarks.page, dogerm.engine
from transformers import AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification
from dogerm.cli import app

for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
    elif (pid := os.fork()) == 0:
        os.environ.update(asked["env"])
        out = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        app(asked["arguments"], prog_name="python -m dogerm")
    else:
        print(pid, flush=True)
"""


class Commands:
    """Starts commands and waits for them; they can be killed in between by their pid."""

    def __init__(self, log: Path):
        self.log = log
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            cwd=ROOT,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments, **env: str) -> int:
        log = f"{self.log}{env.get('RANK', '')}"
        return self._ask(arguments=[str(a) for a in arguments], env=env, log=log)

    def wait(self, pid: int) -> int:
        """The exit code; minus the signal's number for a process that was killed."""
        return self._ask(wait=pid)

    def run(self, *arguments) -> int:
        return self.wait(self.start(*arguments))

    def close(self) -> None:
        self._server.communicate()

    def _ask(self, **question) -> int:
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())
