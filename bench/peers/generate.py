# SPDX-License-Identifier: MIT
"""Greedy decoding of one model by dsv3-generate and by Hugging Face transformers, side by side.

usage: python3 bench/peers/generate.py --binary build/cpu/bin/dsv3-generate [--threads 2] [--prompt 1983] [--new 64]

Makes a checkpoint of the size `mini` with random weights in a temporary folder (0.6 GB), lets both continue the
same prompt on the same threads in float32, checks that they write the same tokens, and prints both rates and
their ratio. Only decoding is timed: transformers' prefill is measured apart and taken off, dsv3-generate prints
its own. Needs torch, transformers (5 or later), tokenizers.
"""
import argparse
import json
import os
import re
import subprocess
import tempfile
import time

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

MINI = dict(
    vocab_size=4096, hidden_size=512, num_hidden_layers=8, first_k_dense_replace=2, intermediate_size=1536,
    moe_intermediate_size=256, n_routed_experts=64, n_shared_experts=1, num_experts_per_tok=8, n_group=8,
    topk_group=4, norm_topk_prob=True, routed_scaling_factor=2.5, num_attention_heads=8, num_key_value_heads=8,
    q_lora_rank=256, kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64,
    rms_norm_eps=1e-6, max_position_embeddings=2048, num_nextn_predict_layers=0, hidden_act="silu",
    attention_bias=False, tie_word_embeddings=False, bos_token_id=256, eos_token_id=257, pad_token_id=257,
    rope_scaling=dict(type="yarn", rope_type="yarn", factor=8.0, original_max_position_embeddings=256, beta_fast=32,
                      beta_slow=1, mscale=1.0, mscale_all_dim=1.0, rope_theta=10000.0))


def byte_tokenizer(path):
    """A token a byte, as a tokenizer.json."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens([AddedToken("<begin>", special=True), AddedToken("<end>", special=True)])
    words.add_tokens([AddedToken(f"<{i}>") for i in range(258, MINI["vocab_size"])])
    words.post_processor = processors.TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", 256)])
    words.save(path)
    return words


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=1983, help="tokens before the first new one")
    parser.add_argument("--new", type=int, default=64)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(1)

    with tempfile.TemporaryDirectory() as folder:
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**MINI)).float().eval()
        with torch.no_grad():  # spread logits, so that rounding decides nothing
            for name, weight in model.named_parameters():
                weight.mul_(2.0) if weight.dim() > 1 else None
        model.save_pretrained(folder)
        model.generation_config.eos_token_id = None  # as --past-end does
        words = byte_tokenizer(os.path.join(folder, "tokenizer.json"))
        text = "".join(chr(97 + (i * i + i // 7) % 26) for i in range(asked.prompt - 1))
        ids = torch.tensor([words.encode(text).ids])
        assert ids.shape[1] == asked.prompt

        def generate(count):
            begin = time.perf_counter()
            with torch.no_grad():
                out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
                                     do_sample=False, use_cache=True)
            return time.perf_counter() - begin, out[0, asked.prompt:].tolist()

        generate(2)
        first = min(generate(1)[0] for _ in range(2))
        seconds, theirs = generate(1 + asked.new)
        their_rate = asked.new / (seconds - first)

        prompt = os.path.join(folder, "prompt.txt")
        with open(prompt, "w") as file:
            file.write(text)
        done = subprocess.run([asked.binary, "--model", folder, "--prompt-file", prompt, "--past-end", "--json",
                               "--no-stream", "--max-new", str(1 + asked.new), "--threads", str(asked.threads)],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        ours = json.loads(done.stdout.splitlines()[-1])["tokens"]
        our_rate = float(re.search(r"decoded \d+ tokens at ([0-9.]+)/s", done.stderr).group(1))
        same = sum(a == b for a, b in zip(ours, theirs))
        print(f"mini, float32, {asked.threads} threads, {asked.prompt} tokens before: {same} of {1 + asked.new} tokens "
              "are the same")
        print(f"transformers  {their_rate:8.1f} tokens/s   prompt {asked.prompt / first:8.1f} tokens/s")
        print(f"dsv3-generate {our_rate:8.1f} tokens/s   prompt "
              f"{float(re.search(r'^prompt [0-9]+ tokens at ([0-9.]+)/s', done.stderr).group(1)):8.1f} tokens/s")
        print(f"ratio         {our_rate / their_rate:8.2f}")


if __name__ == "__main__":
    main()
