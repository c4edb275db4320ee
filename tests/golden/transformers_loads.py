# SPDX-License-Identifier: MIT
"""A checkpoint of ours in Hugging Face transformers: it loads, and gives the logits that dsv3-forward gives.

usage: python3 transformers_loads.py CHECKPOINT DSV3_FORWARD

transformers has no use for the tensors of MTP modules; any other tensor that it misses or does not know is an
error.
Needs torch, transformers (5 or later) and safetensors.
"""
import os
import re
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3ForCausalLM


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: transformers_loads.py CHECKPOINT DSV3_FORWARD")
    checkpoint, forward = sys.argv[1:]
    model, report = DeepseekV3ForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    model.eval()
    mtp = re.compile(r"model\.layers\.(\d+)\.")
    extra = [n for n in report["unexpected_keys"]
             if not (mtp.match(n) and int(mtp.match(n)[1]) >= model.config.num_hidden_layers)]
    found = {"unknown": extra, "missing": report["missing_keys"], "mismatched": report["mismatched_keys"]}
    for kind, names in found.items():
        if names:
            sys.exit(f"{kind} to transformers: {sorted(names)[:5]}")

    length = min(64, model.config.max_position_embeddings)
    ids = torch.randint(0, model.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        given, out = os.path.join(folder, "ids.safetensors"), os.path.join(folder, "out.safetensors")
        save_file({"input_ids": ids}, given)
        command = [forward, "--model", checkpoint, "--ids", given, "--out", out, "--precision", "fp32"]
        subprocess.run(command, check=True)
        found = load_file(out)["logits"]
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"{checkpoint}: logits differ by {error:.1e} of the largest")
    if not error <= 2e-5:
        sys.exit(f"logits differ by {error:.1e} of the largest, expected at most 2e-5")


main()
