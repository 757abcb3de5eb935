"""From conversations to rewards: template, tokens, shared prompts, batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jinja2 import TemplateError

from dogerm.engine import Batch, Engine
from dogerm.errors import CheckpointError, InputError, OutOfMemory, TooLong
from dogerm.family import WhenTooLong
from dogerm.recipe import Recipe
from dogerm.texts import check_text, letter
from dogerm.weights import one_line

Prompt = str | Sequence[Mapping[str, str]]  # an instruction, or chat messages
Group = tuple[Prompt, Sequence[str]]  # a prompt with the responses to it

# Out of memory, batches are halved down to this many padded tokens.
SMALLEST_BATCH = 256
# Prompt tokens that must be saved for a pass of its own to pay.
WORTH_SHARING = 32


@dataclass(frozen=True)
class Tokens:
    """The token ids of a prompt's responses, ready to be scored under any recipe.

    Args:
        sequences: whole conversations, one per response, each ending at the token
            where its reward is read.
        shared: how many leading tokens all of them have in common and are computed once.
        cut: per response, how many tokens were cut off for being too long.
    """

    sequences: tuple[tuple[int, ...], ...]
    shared: int
    cut: tuple[int, ...]


def tokenise(
    engine: Engine,
    prompt: Prompt,
    responses: Sequence[str],
    too_long: WhenTooLong = "error",
    may_be_empty: bool = False,
) -> Tokens:
    """Token ids of prompt + each response, in the family's chat template.

    Args:
        may_be_empty: score a response with nothing in it, as some benchmarks hold.

    Raises:
        InputError: an empty prompt or response, or text that is not valid Unicode.
        TooLong: a conversation has more tokens than the model reads, and too_long is
            neither "cut", which drops its beginning, nor "cut-end".
    """
    messages = _with_system(engine, prompt)
    sequences, cut = [], []
    limit = engine.max_tokens
    for index, response in enumerate(responses):
        who = f"response {letter(index)}"
        check_text(response, who, may_be_empty)
        turn = {"role": "assistant", "content": response}
        ids = _encode(engine, [*messages, turn])
        if len(ids) > limit and too_long in ("error", "skip"):
            raise TooLong(
                f"{who} has {len(ids)} tokens together with its prompt; "
                f"this model reads at most {limit}. Shorten the text."
            )
        cut.append(max(0, len(ids) - limit))
        ids = ids[:limit] if too_long == "cut-end" else ids[-limit:]
        sequences.append(tuple(ids[: _read_to(engine, ids)]))
    return Tokens(tuple(sequences), _shared(engine, sequences), tuple(cut))


def _read_to(engine: Engine, ids: Sequence[int]) -> int:
    """How many of a conversation's tokens the reward depends on: those up to where it is read."""
    pad = engine.pad_token
    if engine.reward_at == "end" or pad not in ids:
        return len(ids)
    if engine.reward_at == "first-pad":
        return ids.index(pad) or len(ids)  # transformers 4 took -1 for the last
    places = range(len(ids) - 1, 0, -1)
    return next((place + 1 for place in places if ids[place] != pad), 1)


def answer_start(engine: Engine, prompt: Prompt, ids: Sequence[int]) -> int:
    """Where in the token ids of prompt + response the response begins.

    Found by what the conversation has in common with the prompt alone, as the template
    writes it when an answer is to be generated.
    """
    before = _encode(engine, _with_system(engine, prompt), asks=True)
    pairs = enumerate(zip(before, ids))
    return next((place for place, (a, b) in pairs if a != b), len(before))


def rewards(
    engine: Engine,
    recipe: Recipe,
    items: Sequence[Tokens],
    on_progress: Callable[[int], None] | None = None,
    batch_tokens: int | None = None,
) -> list[list[float]]:
    """Reward of every response of every item under one recipe, in the order given.

    Args:
        on_progress: called with the number of responses done since the last call.
        batch_tokens: padded tokens of one forward pass; None: what the engine's plan
            found room for.

    Raises:
        CheckpointError: a source holds NaN or infinity; names the tensor.
        InputError: a reward is not a finite number though the weights are; or a token
            has no row in the embedding table.
    """
    _check_ids(engine, items)
    # Equal texts are scored once, so that they tie exactly wherever they stand in a batch.
    counts = [Counter(item.sequences) for item in items]
    distinct = [
        replace(item, sequences=tuple(texts)) for item, texts in zip(items, counts)
    ]
    found = [dict.fromkeys(texts, math.nan) for texts in counts]
    budget = batch_tokens or engine.plan.batch_tokens
    with engine.using(recipe):
        while True:
            try:
                for batch, places in _batches(distinct, budget):
                    done = [(i, distinct[i].sequences[j]) for i, j in places]
                    new = sum(counts[i][t] for i, t in done if math.isnan(found[i][t]))
                    for (i, text), reward in zip(done, engine.forward(batch).tolist()):
                        found[i][text] = reward
                    if on_progress:
                        on_progress(new)
                break
            except OutOfMemory:
                # The plan's estimate was short, or another program took the memory.
                if budget <= SMALLEST_BATCH:
                    raise
                budget //= 2
    table = [[row[text] for text in item.sequences] for row, item in zip(found, items)]
    if not all(math.isfinite(reward) for row in table for reward in row):
        raise InputError(
            f"a reward under {recipe} is not a finite number, though the weights of "
            f"{engine.family.name!r} are: they overflow in {engine.dtype}. "
            "Load with --dtype float32 or bfloat16."
        )
    return table


def _check_ids(engine: Engine, items: Sequence[Tokens]) -> None:
    """InputError for a token beyond the embedding table, which would take a GPU down."""
    rows = engine.model.get_input_embeddings().weight.shape[0]
    largest = max((max(ids) for item in items for ids in item.sequences), default=0)
    if largest >= rows:
        token = engine.tokenizer.convert_ids_to_tokens(largest)
        raise InputError(
            f"a text holds {token!r}, which is token {largest} of the tokenizer of "
            f"{engine.family.name!r}, but its embedding table has {rows} rows. Leave it out."
        )


def together(items: Sequence[Tokens], batch_tokens: int) -> list[list[int]]:
    """Which items to hand to `rewards` at a time: their indices, those of like length together.

    Each list fits one forward pass (or is one item that alone does not). A reward's last
    bits depend on its batch, so whoever wants the same bits again, after a stop or on
    several machines, scores the same lists again.
    """
    whole = [
        _Part(i, item.shared, range(len(item.sequences)))
        for i, item in enumerate(items)
    ]
    return [
        [part.item for part in parts] for parts in _packed(items, whole, batch_tokens)
    ]


def score(
    engine: Engine,
    recipe: Recipe,
    groups: Sequence[Group],
    too_long: WhenTooLong = "error",
) -> list[list[float]]:
    """Reward of every response in every (prompt, responses) group: float32 values.

    A reward does not depend on what else is scored with it (to 1e-5 in float32).
    """
    items = [tokenise(engine, prompt, texts, too_long) for prompt, texts in groups]
    return rewards(engine, recipe, items)


def chat_messages(prompt: Prompt) -> list[dict[str, str]]:
    """The prompt as chat messages; InputError when it is not text or such messages."""
    if isinstance(prompt, str):
        check_text(prompt, "the instruction")
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence):
        raise InputError(
            f"the prompt must be text or a list of chat messages, got {prompt!r:.80}."
        )
    if not prompt:
        raise InputError("the prompt has no messages. Give at least one.")
    return [_checked_message(message) for message in prompt]


def _checked_message(message: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise InputError(
            f"a chat message needs the keys role and content, got {message!r:.80}."
        )
    check_text(message["content"], f"the {message['role']} message")
    return {"role": message["role"], "content": message["content"]}


def _with_system(engine: Engine, prompt: Prompt) -> list[dict[str, str]]:
    messages = chat_messages(prompt)
    system = engine.family.system
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _encode(
    engine: Engine, messages: list[dict[str, str]], asks: bool = False
) -> list[int]:
    """Token ids of a conversation; with asks, up to where the assistant's turn begins."""
    tokenizer = engine.tokenizer
    template = engine.family.template or tokenizer.chat_template
    if not template:
        raise CheckpointError(
            f"the tokenizer of {engine.family.name!r} has no chat template. "
            "Set `template` in the family file."
        )
    try:
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=asks,
        )
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001, a template is a program of the checkpoint's
        if type(error) is TemplateError:  # by its own raise_exception
            raise InputError(
                f"the chat template of {engine.family.name!r} refuses this conversation: "
                f"{error}"
            ) from None
        raise CheckpointError(
            f"the chat template of {engine.family.name!r} fails: {type(error).__name__}: "
            f"{one_line(error)} Set `template` in the family file."
        ) from None
    return tokenizer(text, add_special_tokens=engine.family.add_special_tokens)[
        "input_ids"
    ]


def _shared(engine: Engine, sequences: Sequence[Sequence[int]]) -> int:
    """Leading tokens worth computing once. Found on the ids, so it holds for any template.

    Every response keeps at least one token of its own, where its reward is read.
    """
    if len(sequences) < 2 or not engine.shares_prompts:
        return 0
    common = min(len(sequence) for sequence in sequences) - 1
    first = sequences[0]
    for other in sequences[1:]:
        common = next((i for i in range(common) if first[i] != other[i]), common)
    return common if common * (len(sequences) - 1) >= WORTH_SHARING else 0


@dataclass
class _Part:
    """Some responses of one item: as many as a batch holds."""

    item: int
    shared: int
    places: range

    def lengths(self, items: Sequence[Tokens]) -> list[int]:
        """Tokens of each response beyond the shared ones."""
        texts = items[self.item].sequences
        return [len(texts[place]) - self.shared for place in self.places]


def _batches(
    items: Sequence[Tokens], budget: int
) -> Iterator[tuple[Batch, list[tuple[int, int]]]]:
    """Batches of at most `budget` padded tokens (or one response, if it alone is longer).

    Yields each batch with the (item, response) that every row of it is.
    """
    parts = [part for i, item in enumerate(items) for part in _parts(i, item, budget)]
    for packed in _packed(items, parts, budget):
        yield _batch(items, packed)


def _packed(
    items: Sequence[Tokens], parts: Sequence[_Part], budget: int
) -> Iterator[list[_Part]]:
    """Lists of parts that fill the budget; parts of like length together, so that little is padding."""
    longest = {id(part): max(part.lengths(items)) for part in parts}
    pending: list[_Part] = []
    rows = width = 0
    for part in sorted(parts, key=lambda part: (part.shared, longest[id(part)])):
        rows += len(part.places)
        width = max(width, longest[id(part)])
        # Sorted, so this part's prompt is the longest of the batch.
        cost = (len(pending) + 1) * part.shared + rows * width
        mixed = pending and bool(pending[0].shared) != bool(part.shared)
        if pending and (cost > budget or mixed):
            yield pending
            pending, rows, width = [], len(part.places), longest[id(part)]
        pending.append(part)
    if pending:
        yield pending


def _parts(index: int, item: Tokens, budget: int) -> Iterator[_Part]:
    count = len(item.sequences)
    longest = max(len(sequence) for sequence in item.sequences) - item.shared
    step = max(1, (budget - item.shared) // longest)
    for start in range(0, count, step):
        yield _Part(index, item.shared, range(start, min(start + step, count)))


def _batch(
    items: Sequence[Tokens], parts: Sequence[_Part]
) -> tuple[Batch, list[tuple[int, int]]]:
    places = [(part.item, place) for part in parts for place in part.places]
    own = [items[i].sequences[j][items[i].shared :] for i, j in places]
    responses, lengths = _padded(own)
    if not parts[0].shared:
        return Batch(None, None, None, responses, lengths), places
    prompts, known = _padded(
        [items[part.item].sequences[0][: part.shared] for part in parts], left=True
    )
    owner = [slot for slot, part in enumerate(parts) for _ in part.places]
    return Batch(prompts, known, torch.tensor(owner), responses, lengths), places


def _padded(
    sequences: Sequence[Sequence[int]], left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, longest) int64 ids, 0 where there is none (masked later), and (N,) lengths."""
    lengths = [len(sequence) for sequence in sequences]
    table = torch.zeros(len(sequences), max(lengths), dtype=torch.int64)
    for row, ids, length in zip(table, sequences, lengths):
        start = len(row) - length if left else 0
        row[start : start + length] = torch.tensor(ids)
    return table, torch.tensor(lengths)
