# SPDX-License-Identifier: MIT
# Sourced by the scripts that run dsv3-train: a model whose steps take milliseconds, a text, and the flags.
source "$(dirname "${BASH_SOURCE[0]}")/program.sh"
needs dsv3-train

cat > "$scratch/config.json" << 'END'
{
  "model_type": "deepseek_v3", "vocab_size": 258, "hidden_size": 32, "num_hidden_layers": 2,
  "num_nextn_predict_layers": 1, "first_k_dense_replace": 1, "intermediate_size": 48,
  "moe_intermediate_size": 16, "num_attention_heads": 2,
  "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
  "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
  "routed_scaling_factor": 2.5, "rope_theta": 10000, "max_position_embeddings": 64
}
END
mkdir "$scratch/text"
for file in 1 2 3; do seq $((file * 1000)) $((file + 6)) $((file * 2000)) > "$scratch/text/$file.txt"; done
flags=(--config "$scratch/config.json" --data "$scratch/text"
  --batch 2 --seq 16 --threads 2 --warmup 4 --sample-bytes 0)

train() { "$DSV3_BIN/dsv3-train" "${flags[@]}" "$@"; }

# The log without what the clock decides.
rows() { sed -E 's/"(tokens_per_second|peak_bytes)":[^,}]*,?//g' "$1/run.jsonl"; }

# same RUN OTHER WHAT   the same rows and, byte for byte, the same newest checkpoint
same() {
  local newest
  newest=$(cat "$1/latest")
  diff <(rows "$1") <(rows "$2") > "$scratch/difference" ||
    fail "$3: other rows: $(head -n 4 "$scratch/difference")"
  diff -r "$1/$newest" "$2/$newest" > "$scratch/difference" ||
    fail "$3: another $newest: $(cat "$scratch/difference")"
  [ "$newest" = "$(cat "$2/latest")" ] ||
    fail "$3: the newest checkpoint is $(cat "$2/latest"), expected $newest"
}
