"""Every architecture that transformers has both as a language model and as a classifier."""

import pytest
import torch
from conftest import byte_tokenizer, plain_reward
from safetensors.torch import load_file, save_file
from test_formats import CLOSE, SIZES, live
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from dogerm.engine import Engine
from dogerm.errors import CheckpointError
from dogerm.export import export
from dogerm.family import Family
from dogerm.recipe import Recipe
from dogerm.scoring import score

BOTH = sorted(
    set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    & set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
)
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "num_key_value_heads": 4,
}
LINEAR = {
    "num_hidden_layers": 4,  # the last with softmax attention
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
# Where the usual names of sizes do not make a tiny model.
OWN = {
    "axk1": LATENT,
    "axk2": LATENT,
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "minicpm3": LATENT,
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4}
        }
    },
    "gptj": {"rotary_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR,
}
# They read the first token, or with more than one linear layer, or pictures too, or share
# weights between layers.
REFUSED = {
    "bart",
    "bert",
    "big_bird",
    "bigbird_pegasus",
    "camembert",
    "ctrl",
    "data2vec-text",
    "electra",
    "ernie",
    "gemma3",
    "mbart",
    "megatron-bert",
    "modernbert-decoder",
    "mvp",
    "plbart",
    "qwen3_5",
    "reformer",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xlnet",
    "xmod",
    "zamba",
    "zamba2",
}
# Their configs have a list as long as the layers are many.
LISTS = {"reformer", "zamba", "zamba2"}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "head_dim": 8,
}
PROMPT = "What is a prime number, then? Tell me more of it."
ANSWERS = ["Seven, for one.", "Nine", "I cannot say."]


def tiny(kind: str, tokenizer, auto: type, folder, **labels):
    """A random model of that architecture, saved as transformers saves it."""
    known = AutoConfig.for_model(kind).to_dict()
    sizes = SIZES | {k: v for k, v in EXPERTS.items() if k in known}
    sizes |= OWN.get(kind, {}) | labels
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **sizes)
    model = auto.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_an_architecture_that_scores_otherwise_is_refused_with_a_sentence(
    kind, tmp_path
):
    known = AutoConfig.for_model(kind).to_dict()
    few = dict.fromkeys(("num_hidden_layers", "encoder_layers", "decoder_layers"), 2)
    few = {} if kind in LISTS else {k: v for k, v in few.items() if k in known}
    config = AutoConfig.for_model(kind, num_labels=1, **few)
    config.architectures = ["OwnForSequenceClassification"]
    config.save_pretrained(tmp_path)
    save_file({"weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"a {kind} classifier") as caught:
        Engine.load(Family.of(tmp_path, {"math": tmp_path}), "cpu", "float32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", sorted(set(BOTH) - REFUSED))
def test_an_architecture_merges_and_scores_as_transformers_does(kind, tmp_path):
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    rm, lm = tmp_path / "rm", tmp_path / "lm"
    ours = tiny(kind, tokenizer, AutoModelForSequenceClassification, rm, num_labels=1)
    theirs = tiny(kind, tokenizer, AutoModelForCausalLM, lm).state_dict()
    family = Family.of(rm, {"math": lm})
    engine = Engine.load(family, "cpu", "float32")
    wanted = dict(ours.named_parameters())
    assert set(live(engine)) == set(wanted)
    for name, tensor in live(engine).items():
        assert torch.equal(tensor, wanted[name]), name
    recipe = Recipe(0.3, {"math": 1})
    engine.apply(recipe)
    with torch.no_grad():
        for name, parameter in wanted.items():
            if name in engine.fit.merged:
                parameter.lerp_(theirs[name], 0.3)
    for name, tensor in live(engine).items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-7, rtol=1e-6)
    found = score(engine, recipe, [(PROMPT, ANSWERS)])[0]
    rewards = [plain_reward(ours, tokenizer, PROMPT, text) for text in ANSWERS]
    assert found == pytest.approx(rewards, abs=CLOSE)


def pair(kind: str, root):
    """A random reward model and LM: their folders, and the LM's parameters."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    auto = AutoModelForSequenceClassification
    tiny(kind, tokenizer, auto, root / "rm", num_labels=1)
    lm = tiny(kind, tokenizer, AutoModelForCausalLM, root / "lm")
    return root / "rm", root / "lm", dict(lm.named_parameters())


OLD = {
    # as openai-community/gpt2 lies on the hub: without the prefix, with the masks
    "gpt2": ("transformer.", {"h.0.attn.bias": torch.ones(1, 1, 8, 8)}),
    # as Pythia does
    "gpt_neox": (
        "",
        {
            "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8).bool(),
            "gpt_neox.layers.1.attention.masked_bias": torch.tensor(-1e9),
        },
    ),
}


@pytest.mark.parametrize("kind", OLD)
@pytest.mark.parametrize("end", ["safetensors", "bin"])
def test_an_old_checkpoint_may_lack_the_prefix_and_hold_masks(kind, end, tmp_path):
    prefix, masks = OLD[kind]
    rm, lm, theirs = pair(kind, tmp_path)
    file = lm / "model.safetensors"
    found = load_file(file)
    found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    file.unlink()
    if end == "bin":
        torch.save(found | masks, lm / "pytorch_model.bin")
    else:
        save_file(found | masks, file)
    engine = Engine.load(Family.of(rm, {"math": lm}), "cpu", "float32")
    assert set(masks) <= set(engine.fit.left_out["math"])
    engine.apply(Recipe(1, {"math": 1}))
    for name in engine.fit.merged:
        assert torch.equal(live(engine)[name], theirs[name]), name


def test_a_tensor_of_codes_where_weights_are_wanted_is_named(tmp_path):
    rm, lm, _ = pair("llama", tmp_path)
    found = load_file(lm / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    found[name] = found[name].to(torch.int8)
    save_file(found, lm / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"math: {name} .* is stored as int8"):
        Engine.load(Family.of(rm, {"math": lm}), "cpu", "float32")


@pytest.mark.parametrize("kind", ["mixtral", "jamba", "gpt_neox"])
def test_a_merge_of_fused_experts_is_exported_as_transformers_loads_it(kind, tmp_path):
    rm, lm, _ = pair(kind, tmp_path)
    family, recipe = Family.of(rm, {"math": lm}), Recipe(0.3, {"math": 1})
    engine = Engine.load(family, "cpu", "float32")
    engine.apply(recipe)
    export(family, recipe, tmp_path / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    for name, tensor in loaded.named_parameters():
        assert torch.equal(tensor, live(engine)[name]), name


def test_an_expert_that_is_not_there_is_one_sentence(tmp_path):
    rm, lm, _ = pair("mixtral", tmp_path)
    found = load_file(lm / "model.safetensors")
    (name,) = [n for n in found if "layers.1" in n and "experts.2.w1" in n]
    del found[name]
    save_file(found, lm / "model.safetensors")
    with pytest.raises(CheckpointError, match="math.*gate_up_proj.*cannot be read"):
        Engine.load(Family.of(rm, {"math": lm}), "cpu", "float32")


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "gpt_neox"])
@pytest.mark.parametrize("held", ["int8", "nf4"])
def test_a_plan_counts_as_codes_what_is_held_as_codes(kind, held, tmp_path):
    """GPT-2 has no linear layers in torch's sense, Mixtral's experts are in one tensor."""
    pytest.importorskip("bitsandbytes")
    rm, lm, _ = pair(kind, tmp_path)
    family = Family.of(rm, {"math": lm})
    engine = Engine.load(family, "cpu", "float32", held)
    live = sum(parameter.nbytes for parameter in engine.model.parameters())
    whole = Engine.load(family, "cpu", "float32").plan.live
    assert engine.plan.live == pytest.approx(live, rel=0.05)
    assert (engine.plan.live == whole) == (kind == "gpt2")


@pytest.mark.parametrize("held", ["int8", "nf4"])
def test_layers_that_read_their_weights_themselves_are_not_held_as_codes(
    held, tmp_path
):
    pytest.importorskip("bitsandbytes")
    rm, lm, _ = pair("jamba", tmp_path)
    with pytest.raises(CheckpointError, match=f"jamba.* cannot be held in {held}"):
        Engine.load(Family.of(rm, {"math": lm}), "cpu", "float32", held)
