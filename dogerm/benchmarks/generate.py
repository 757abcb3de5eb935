"""Candidates for best-of-N, sampled from a causal LM: a problem a line, resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import torch

from dogerm.benchmarks import code, gsm8k
from dogerm.benchmarks.data import text
from dogerm.errors import CheckpointError, InputError
from dogerm.hub import located
from dogerm.rows import read_objects
from dogerm.store import naming

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sampling:
    """How candidates are drawn; written beside them.

    Args:
        n: candidates of each problem.
        system: system message; empty for none.
        prefix: what every answer is made to begin with; it is no part of a candidate.
            `{prompt}` stands for the row's own.
        stops: an answer ends before the first of these.
        max_tokens: of one candidate.
        seed: with the place of a problem it settles its candidates.
        together: problems in one batch, of n sequences each. Part of what settles them.
    """

    n: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    system: str = ""
    prefix: str = ""
    stops: tuple[str, ...] = ()
    seed: int = 0
    together: int = 1

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1 or self.together < 1:
            raise InputError(
                "candidates, tokens and problems at a time must be 1 or more, "
                f"got {self.n}, {self.max_tokens} and {self.together}."
            )
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise InputError(
                "sampling takes a temperature above 0 and a top_p above 0, at most 1; "
                f"got {self.temperature} and {self.top_p}."
            )


_CODE = "Write Python code to solve the task."

# As the reference had candidates made, by benchmark.
SAMPLING = {
    "gsm8k": Sampling(
        system=gsm8k.SYSTEM,
        prefix=gsm8k.PREFIX,
        stops=(
            "Question",
            "USER",
            "ASSISTANT",
            "Instruction",
            "Response",
            "[INST]",
            "<s>",
            "[/INST]",
        ),
    ),
    "mbpp": Sampling(temperature=0.1, top_p=0.95, system=_CODE),
    "humaneval": Sampling(
        temperature=0.2, top_p=0.95, system=_CODE, prefix=" ```python\n{prompt}"
    ),
}

# What the LM is asked, from a row and where it stands.
_ASKED: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    "gsm8k": lambda data, where: text(data, ["question", "prompt"], where),
    "mbpp": code.asked,
    "humaneval": lambda data, where: text(data, ["instruction", "prompt"], where),
}


def generate(
    benchmark: str,
    problems: Path,
    model: str | Path,
    out: Path,
    sampling: Sampling,
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    resume: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write each problem's row with `candidates`, `prefix` and how they were made.

    Problems are finished in the file's order, each line on disk before the next batch
    begins: whoever was stopped goes on with `resume`, and gets what an uninterrupted
    run had got.

    Args:
        model: folder or hub id of a causal LM with a chat template.
        on_progress: called with the number of problems done and of all.

    Raises:
        InputError: a row has no question; out is there and not to be resumed, or was
            made in another way; a prompt leaves no room for an answer.
        CheckpointError: the model is not one.
    """
    rows = read_objects(problems)
    asked = [(data, _ASKED[benchmark](data, where)) for where, data in rows]
    made = {
        "model": str(model),
        "benchmark": benchmark,
        "problems_sha256": hashlib.sha256(problems.read_bytes()).hexdigest(),
        "dtype": dtype,
        **asdict(sampling),
        "stops": list(sampling.stops),
    }
    done = _begun(out, made, len(asked), resume)
    done -= done % sampling.together  # a batch that was cut short is made again
    if on_progress:
        on_progress(done, len(asked))
    if done == len(asked):
        return
    writer = _Writer.load(model, device, dtype)
    with naming(out), _after(out, done) as file:
        for start in range(done, len(asked), sampling.together):
            batch = asked[start : start + sampling.together]
            seed = f"{sampling.seed}/{start}"
            found = writer.write(batch, sampling, seed)
            for (data, _), candidates in zip(batch, found, strict=True):
                own = {"candidates": candidates, "generated": made}
                if benchmark == "gsm8k":
                    own["prefix"] = sampling.prefix
                file.write(json.dumps(data | own, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            if on_progress:
                on_progress(start + len(batch), len(asked))


@dataclass(frozen=True)
class _Writer:
    """A causal LM that answers in its chat template."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str

    @classmethod
    def load(cls, source: str | Path, device: str, dtype: str) -> _Writer:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = located(str(source), "generator")
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype)
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise CheckpointError(f"{source} is no causal LM: {reason}") from None
        if not tokenizer.chat_template:
            raise CheckpointError(
                f"the tokenizer of {source} has no chat template: take a model that "
                "was tuned to follow instructions."
            )
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return cls(model.to(device).eval(), tokenizer, str(source))

    def write(
        self, asked: Sequence[tuple[Mapping[str, Any], str]], how: Sampling, seed: str
    ) -> list[list[str]]:
        """n answers to each question, settled by the seed and the batch."""
        prompts = [
            self._prompt(question, how.system)
            + how.prefix.replace("{prompt}", str(data.get("prompt", "")))
            for data, question in asked
        ]
        batch = self.tokenizer(
            prompts, padding=True, add_special_tokens=False, return_tensors="pt"
        ).to(self.model.device)
        width = batch["input_ids"].shape[1]
        limit = getattr(self.model.config, "max_position_embeddings", None)
        room = min(how.max_tokens, limit - width) if limit else how.max_tokens
        if room < 1:
            raise InputError(
                f"a prompt has {width} tokens; {self.name} reads at most {limit}. "
                "Shorten the system message or leave the problem out."
            )
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            digest = hashlib.sha256(seed.encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:7]))
            ids = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=True,
                temperature=how.temperature,
                top_p=how.top_p,
                top_k=0,
                num_return_sequences=how.n,
                max_new_tokens=room,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self._ends(),
            )
        texts = [
            self._answer(whole, whole[:width].tolist(), how.stops)
            for whole in ids.cpu()
        ]
        return [texts[i : i + how.n] for i in range(0, len(texts), how.n)]

    def _prompt(self, question: str, system: str) -> str:
        messages = [{"role": "user", "content": question}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def _ends(self) -> list[int]:
        """Tokens that end an answer: the model's own, and what its template ends a turn with."""
        own = self.model.generation_config.eos_token_id
        ends = {own} if isinstance(own, int) else set(own or ())
        turn = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": "answer"},
        ]
        written = self.tokenizer.apply_chat_template(turn, tokenize=False)
        _, _, tail = written.rpartition("answer")
        after = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        return sorted(ends | (set(after) & set(self.tokenizer.all_special_ids)))

    def _answer(
        self, ids: torch.Tensor, prompt: list[int], stops: Sequence[str]
    ) -> str:
        # Decoded with its prompt and without: a token alone may lose its leading space.
        both, before = (
            self.tokenizer.decode(part, skip_special_tokens=True)
            for part in (ids.tolist(), prompt)
        )
        return code.cut(both[len(before) :], tuple(stops))


def _begun(out: Path, made: Mapping[str, Any], total: int, resume: bool) -> int:
    """How many problems of the file are finished."""
    if not out.exists():
        return 0
    if not resume:
        raise InputError(
            f"{out} is already there. Pass --resume to go on with it, or name another."
        )
    finished = list(_whole_lines(out))
    for number, line in enumerate(finished, 1):
        if line.get("generated") != made:
            old = line.get("generated") or {}
            differs = [key for key, value in made.items() if old.get(key) != value]
            raise InputError(
                f"line {number} of {out.name} was made in another way: "
                f"{', '.join(differs)} differ. Name another file."
            )
    return min(len(finished), total)


def _whole_lines(out: Path) -> Iterator[dict[str, Any]]:
    for line in out.read_bytes().split(b"\n")[
        :-1
    ]:  # what follows the last end is cut short
        yield json.loads(line)


@contextmanager
def _after(out: Path, lines: int) -> Iterator[TextIO]:
    """The file, to be written on after so many of its lines; what follows them is dropped."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a+b") as file:
        file.seek(0)
        end = sum(len(file.readline()) for _ in range(lines))
        file.truncate(end)
    with out.open("a", encoding="utf-8") as file:
        yield file
