# SPDX-License-Identifier: MIT
"""Expected results of small models, computed by Hugging Face transformers in float32 on the CPU.

usage: python3 make_golden.py OUT [VARIANT ...]

Writes OUT/<variant>/, for every variant below or for the named ones:
  config.json          as a model repository has it
  model.safetensors    weights under the published names, one tensor per expert
  golden.safetensors   input_ids       I64 [rows, length]
                       logits, loss    of the main model; loss: mean over rows * (length - 1) targets
                       hidden.<i>      input of block i; the last one is after the final norm
                       mtp.1.logits    [rows, length - 1, vocab], and mtp.1.loss, with an MTP module
                       greedy          I64 [rows, length + 16]: the rows and how each goes on, greedily
                       grad.<name>     gradient of loss + mtp_weight * mtp.1.loss, by the weight's name
Variants in 8 bits store the weights of linear layers as codes with weight_scale_inv, and everything is computed
with what codes and scales say. Beside one that is like no other variant lies
  unquantised.safetensors  those weights before, in bfloat16
transformers has no MTP module in training: the one here is built from its blocks, as section 2.2 of the
report says.
Needs torch, transformers (5 or later) and safetensors.
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer, DeepseekV3RMSNorm

ROWS, LENGTH, GREEDY = 2, 48, 16

BASE = dict(
    vocab_size=160, hidden_size=64, num_hidden_layers=3, first_k_dense_replace=1, intermediate_size=128,
    num_attention_heads=4, num_key_value_heads=4, q_lora_rank=48, kv_lora_rank=32, qk_nope_head_dim=16,
    qk_rope_head_dim=8, v_head_dim=16, n_routed_experts=16, n_shared_experts=1, num_experts_per_tok=4,
    n_group=4, topk_group=2, moe_intermediate_size=32, norm_topk_prob=True, routed_scaling_factor=2.5,
    rms_norm_eps=1e-6, max_position_embeddings=64, num_nextn_predict_layers=0, hidden_act="silu",
    attention_bias=False,
    tie_word_embeddings=False)

YARN = dict(type="yarn", rope_type="yarn", factor=8.0, original_max_position_embeddings=32, beta_fast=32,
            beta_slow=1, mscale=1.0, mscale_all_dim=1.0, rope_theta=10000.0)

# What each differs in, how its weights are stored, and what the MTP loss counts.
VARIANTS = {
    "tiny": dict(store=torch.float32),
    "tiny_yarn": dict(store=torch.bfloat16, max_position_embeddings=256, rope_scaling=YARN),
    "tiny_direct_q": dict(store=torch.bfloat16, q_lora_rank=None, n_group=1, topk_group=1, n_shared_experts=2,
                          num_experts_per_tok=3, norm_topk_prob=False, rms_norm_eps=1e-5),
    "tiny_mtp": dict(store=torch.bfloat16, mtp_weight=0.3, num_nextn_predict_layers=1, hidden_size=32,
                     intermediate_size=48, num_hidden_layers=2, n_routed_experts=8, moe_intermediate_size=16,
                     q_lora_rank=24, kv_lora_rank=16, vocab_size=96),
    # Ragged blocks, several to a matrix.
    "tiny_fp8": dict(store=torch.float8_e4m3fn, hidden_size=136, intermediate_size=130, num_hidden_layers=2,
                     n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2, moe_intermediate_size=24,
                     q_lora_rank=24, kv_lora_rank=132, vocab_size=96),
    "tiny_mtp_fp8": dict(store=torch.float8_e4m3fn, like="tiny_mtp"),
}

BLOCK = 128
QUANTISATION = dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[BLOCK, BLOCK])


class MTPModule(torch.nn.Module):
    """One block more, over the pair of the next token's embedding and this token's representation."""

    def __init__(self, config):
        super().__init__()
        norm = lambda: DeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.enorm, self.hnorm, self.last_norm = norm(), norm(), norm()
        self.eh_proj = torch.nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.block = DeepseekV3DecoderLayer(config, config.num_hidden_layers)

    def forward(self, model, ids, representation):
        """ids [rows, length]; answers the logits of positions 0 to length - 2."""
        embedded = model.model.embed_tokens(ids[:, 1:])
        x = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(representation[:, :-1])], -1))
        length = x.shape[1]
        positions = torch.arange(length)[None]
        mask = torch.full((length, length), torch.finfo(x.dtype).min).triu(1)[None, None]
        y = self.block(x, attention_mask=mask, position_ids=positions,
                       position_embeddings=model.model.rotary_emb(x, positions))
        return model.lm_head(self.last_norm(y))


def published(name, value, hidden):
    """One tensor of transformers as the tensors of the published files: experts apart, gate and up apart."""
    if name.endswith("experts.gate_up_proj"):
        stem = name[: -len("gate_up_proj")]
        for e, pair in enumerate(value):
            gate, up = (pair if pair.shape[1] == hidden else pair.t()).chunk(2, 0)
            yield f"{stem}{e}.gate_proj.weight", gate
            yield f"{stem}{e}.up_proj.weight", up
    elif name.endswith("experts.down_proj"):
        stem = name[: -len("down_proj")]
        for e, down in enumerate(value):
            yield f"{stem}{e}.down_proj.weight", down if down.shape[0] == hidden else down.t()
    else:
        yield name, value


def published_name(name, layers):
    """Where a weight of the MTP module stands in the files."""
    if not name.startswith("mtp."):
        return name
    rest = name[len("mtp."):].replace("block.", "").replace("last_norm", "shared_head.norm")
    return f"model.layers.{layers}.{rest}"


def linear(name):
    """Whether the published files hold this tensor in 8 bits."""
    return name.endswith(("_proj.weight", "_proj_with_mqa.weight")) and "eh_proj" not in name


def quantised(weight):
    """Codes, the scale of every block, and what they stand for."""
    rows, columns = weight.shape
    codes = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    scales = torch.empty(-(-rows // BLOCK), -(-columns // BLOCK))
    meant = torch.empty(rows, columns)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK)
            scales[i, j] = weight[at].abs().max() / 448
            codes[at] = (weight[at] / scales[i, j]).to(codes.dtype)
            meant[at] = codes[at].float() * scales[i, j]
    return codes, scales, meant


def quantise(model, hidden, layers):
    """Replaces every linear weight by what its codes say; answers what the files hold of it, and what it was."""
    stored, before = {}, {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for part, value in published(name, parameter.data, hidden):
                part = published_name(part, layers)
                if linear(part):
                    before[part] = value.bfloat16()
                    stored[part], stored[part + "_scale_inv"], meant = quantised(value)
                    value.copy_(meant)
    return stored, before


def initialise(named, generator):
    """Numbers of ordinary size everywhere, all of them bf16 numbers, so that storing them changes none."""
    with torch.no_grad():
        for name, tensor in named:
            noise = torch.randn(tensor.shape, generator=generator)
            if "norm" in name:
                value = 1 + 0.1 * noise
            elif "e_score_correction_bias" in name:
                value = 0.1 * noise
            elif "embed_tokens" in name:
                value = noise
            else:
                value = 1.5 * noise / tensor.shape[-1] ** 0.5
            tensor.copy_(value.bfloat16().float())


def continued(model, ids):
    """The rows and the likeliest tokens after them, every one by a whole forward pass."""
    with torch.no_grad():
        for _ in range(GREEDY):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids


def make(name, folder):
    like = VARIANTS[name].get("like", name)
    given = {**BASE, **VARIANTS[like], **VARIANTS[name]}
    given.pop("like", None)
    store, mtp_weight = given.pop("store"), given.pop("mtp_weight", 0.0)
    in_blocks, store = store == torch.float8_e4m3fn, torch.bfloat16 if store == torch.float8_e4m3fn else store
    depth = given["num_nextn_predict_layers"]
    config = DeepseekV3Config(**given)
    config._attn_implementation = config._experts_implementation = "eager"
    model = DeepseekV3ForCausalLM(config).float().eval()
    if depth:
        model.mtp = MTPModule(config).float().eval()
    generator = torch.Generator().manual_seed(1 + list(VARIANTS).index(like))
    biases = [(n, b) for n, b in model.named_buffers() if "e_score_correction_bias" in n]
    initialise(list(model.named_parameters()) + biases, generator)
    layers, hidden = config.num_hidden_layers, config.hidden_size
    narrow, before = quantise(model, hidden, layers) if in_blocks else ({}, {})

    ids = torch.randint(0, config.vocab_size, (ROWS, LENGTH), generator=generator)
    result = model(ids, output_hidden_states=True, use_cache=False)
    mean = lambda logits, targets: cross_entropy(logits.reshape(-1, config.vocab_size), targets.reshape(-1))
    loss = mean(result.logits[:, :-1], ids[:, 1:])
    expected = {"input_ids": ids, "logits": result.logits, "loss": loss.reshape(1),
                "greedy": continued(model, ids)}
    for i, state in enumerate(result.hidden_states):
        expected[f"hidden.{i}"] = state
    if depth:
        mtp_logits = model.mtp(model, ids, result.hidden_states[-1])
        mtp_loss = mean(mtp_logits[:, :-1], ids[:, 2:])
        expected["mtp.1.logits"], expected["mtp.1.loss"] = mtp_logits, mtp_loss.reshape(1)
        loss = loss + mtp_weight * mtp_loss
    loss.backward()

    weights = {}
    for n, p in model.named_parameters():
        grad = torch.zeros_like(p) if p.grad is None else p.grad
        for (part, value), (_, slope) in zip(published(n, p, hidden), published(n, grad, hidden)):
            part = published_name(part, layers)
            weights[part], expected["grad." + part] = value.to(store), slope
    for n, b in biases:
        weights[published_name(n, layers)] = b
    weights.update(narrow)
    if depth:
        weights[f"model.layers.{layers}.embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
        weights[f"model.layers.{layers}.shared_head.head.weight"] = weights["lm_head.weight"].clone()

    os.makedirs(folder, exist_ok=True)
    plain = lambda tensors: {k: t.detach().contiguous().clone() for k, t in tensors.items()}
    save_file(plain(weights), os.path.join(folder, "model.safetensors"), {"format": "pt"})
    save_file(plain(expected), os.path.join(folder, "golden.safetensors"))
    if in_blocks and like == name:
        save_file(plain(before), os.path.join(folder, "unquantised.safetensors"))
    card = {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
            "scoring_func": "sigmoid", "topk_method": "noaux_tc",
            "torch_dtype": str(store)[len("torch."):], **given}
    if in_blocks:
        card["quantization_config"] = QUANTISATION
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(card, file, indent=1)
        file.write("\n")
    print(f"{name}: loss {float(expected['loss'].detach()):.6f}")


def main():
    if len(sys.argv) < 2 or set(sys.argv[2:]) - set(VARIANTS):
        sys.exit(f"usage: make_golden.py OUT [{' | '.join(VARIANTS)}]")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in sys.argv[2:] or VARIANTS:
        make(name, os.path.join(sys.argv[1], name))


main()
