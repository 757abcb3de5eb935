"""The family's models: their tokenizer, shapes, rewards and samples."""

from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from dogerm.nano.corpus import BLAME, GENERATORS, PRAISE, draw_pair

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL = ("<pad>", "<s>", "</s>", USER, ASSISTANT, END)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 512
IGNORED = -100  # the label torch's cross entropy leaves out


@dataclass(frozen=True)
class Size:
    """The shape of every model of a family."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int = 640


@dataclass(frozen=True)
class Encoder:
    """Texts to token ids, exactly as the chat template and tokenizer of the saved folders do."""

    tokenizer: PreTrainedTokenizerFast

    def id(self, token: str) -> int:
        return self.tokenizer.convert_tokens_to_ids(token)

    def text(self, text: str) -> list[int]:
        return self.tokenizer.backend_tokenizer.encode(
            text, add_special_tokens=False
        ).ids

    def prompt(self, prompt: str) -> list[int]:
        return [self.id("<s>"), self.id(USER), *self.text(prompt), self.id(ASSISTANT)]

    def answer(self, answer: str) -> list[int]:
        return [*self.text(answer), self.id(END)]

    def conversation(self, prompt: str, answer: str) -> list[int]:
        return self.prompt(prompt) + self.answer(answer)


def train_tokenizer(seed: int, vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE on training pairs. Digits stay single, so that numbers compose."""
    rng = Random(seed)
    texts = [
        text for words in (PRAISE, BLAME) for texts in words.values() for text in texts
    ]
    for domain in GENERATORS:
        for _ in range(3000):
            pair = draw_pair(domain, rng)
            texts += [pair.prompt, pair.chosen]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=[USER, ASSISTANT, END],
        padding_side="right",
        model_max_length=CONTEXT,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def new_lm(
    size: Size, tokenizer: PreTrainedTokenizerFast, seed: int
) -> LlamaForCausalLM:
    """A Llama with random weights that depend on the seed only."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        rms_norm_eps=1e-5,
        initializer_range=0.03,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM._from_config(config, attn_implementation=attention())


def attention() -> str:
    """The quicker attention for texts this short: written out on a CPU, fused on a GPU.

    On a CPU the backward pass of the fused kernel took 40% of a training step.
    """
    return "sdpa" if torch.cuda.is_available() else "eager"


def load_lm(folder: Path, device: torch.device | str = "cpu") -> LlamaForCausalLM:
    """A language model of a family in float32, ready to train or to sample from."""
    return LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention()
    ).to(device)


def reward_model_from(
    lm: LlamaForCausalLM, seed: int, head_std: float
) -> LlamaForSequenceClassification:
    """The LM's backbone with a new score head."""
    config = deepcopy(lm.config)
    config.architectures = None
    config.num_labels = 1
    rm = LlamaForSequenceClassification._from_config(
        config, attn_implementation=attention()
    )
    rm.model.load_state_dict(lm.model.state_dict())
    head = torch.randn(
        rm.score.weight.shape, generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        rm.score.weight.copy_(head_std * head)
    return rm.to(lm.device)


def pad(
    rows: list[list[int]], filler: int, device: torch.device | str = "cpu"
) -> Tensor:
    """(B, T) int64, rows filled up on the right."""
    longest = max(map(len, rows))
    padded = [row + [filler] * (longest - len(row)) for row in rows]
    return torch.tensor(padded, device=device)


def batch_rewards(
    rm: LlamaForSequenceClassification, encoder: Encoder, rows: list[list[int]]
) -> Tensor:
    """(B,) float32: the reward of each row of tokens, read at its last one.

    Causal attention never looks right, so padding needs no mask.
    """
    ids = pad(rows, encoder.id("<pad>"), rm.device)
    hidden = rm.model(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, width)
    last = torch.tensor([len(row) - 1 for row in rows], device=rm.device)
    picked = hidden[torch.arange(len(rows), device=rm.device), last]  # (B, width)
    return rm.score(picked).squeeze(-1).float()


@torch.no_grad()
def sample(
    lm: LlamaForCausalLM,
    encoder: Encoder,
    prompts: list[str],
    count: int,
    seed: int,
    temperature: float = 1.0,
    max_tokens: int = 56,
    rows_at_once: int = 512,
) -> list[list[str]]:
    """count answers to each prompt. Prompts of one length run together, so none is padded."""
    generator = torch.Generator(lm.device).manual_seed(seed)
    by_length = defaultdict(list)
    for index, prompt in enumerate(prompts):
        ids = encoder.prompt(prompt)
        by_length[len(ids)] += [(index, ids)] * count
    answers: list[list[str]] = [[] for _ in prompts]
    for length in sorted(by_length):
        rows = by_length[length]
        for start in range(0, len(rows), rows_at_once):
            part = rows[start : start + rows_at_once]
            ids = torch.tensor([ids for _, ids in part], device=lm.device)
            texts = _continue(lm, encoder, ids, generator, temperature, max_tokens)
            for (index, _), text in zip(part, texts, strict=True):
                answers[index].append(text)
    return answers


def _continue(
    lm: LlamaForCausalLM,
    encoder: Encoder,
    ids: Tensor,
    generator: torch.Generator,
    temperature: float,
    max_tokens: int,
) -> list[str]:
    """Sampled continuations of (B, T) ids, up to <|end|>."""
    stops = [encoder.id(token) for token in (END, "</s>", "<pad>")]
    columns, cache = [], None
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_tokens):
        output = lm(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits = output.logits[:, -1].float() / temperature
        if not columns:
            logits[:, stops] = -torch.inf  # an answer has at least one token
        shares = torch.softmax(logits, -1)
        ids = torch.multinomial(shares, 1, generator=generator)  # (B, 1)
        columns.append(ids)
        done |= torch.isin(ids[:, 0], torch.tensor(stops, device=ids.device))
        if done.all():
            break
    rows = torch.cat(columns, 1).tolist()
    return [encoder.tokenizer.decode(_until(row, stops)) for row in rows]


def _until(row: list[int], stops: list[int]) -> list[int]:
    ends = [place for place, token in enumerate(row) if token in stops]
    return row[: ends[0]] if ends else row


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, card: str
) -> None:
    """An ordinary Hugging Face folder in float16, with its model card."""
    folder.mkdir(parents=True, exist_ok=True)
    half = deepcopy(model).to(
        "cpu", torch.float16
    )  # a copy: training goes on in float32
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    (folder / "README.md").write_text(card, encoding="utf-8")
