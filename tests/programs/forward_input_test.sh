#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-forward refuses broken models and tokens with one sentence each, and leaves no file behind.
source "$(dirname "$0")/../support/program.sh"
needs dsv3-forward
export OMP_NUM_THREADS=1

# ---- a model of zeros with every kind of tensor: one dense layer, one with experts, one MTP module ---------
cat > "$scratch/config.json" << 'END'
{
  "model_type": "deepseek_v3", "vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 2,
  "num_nextn_predict_layers": 1, "first_k_dense_replace": 1, "intermediate_size": 12,
  "moe_intermediate_size": 6, "num_attention_heads": 2,
  "q_lora_rank": 6, "kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4,
  "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
  "routed_scaling_factor": 2.5, "max_position_embeddings": 64
}
END
tensors() {  # name rows columns; a vector has no columns
  local layer e
  echo model.embed_tokens.weight 16 8
  for layer in 0 1 2; do
    local at=model.layers.$layer
    echo $at.input_layernorm.weight 8
    echo $at.self_attn.q_a_proj.weight 6 8
    echo $at.self_attn.q_a_layernorm.weight 6
    echo $at.self_attn.q_b_proj.weight 12 6
    echo $at.self_attn.kv_a_proj_with_mqa.weight 6 8
    echo $at.self_attn.kv_a_layernorm.weight 4
    echo $at.self_attn.kv_b_proj.weight 16 4
    echo $at.self_attn.o_proj.weight 8 8
    echo $at.post_attention_layernorm.weight 8
    if [ $layer -eq 0 ]; then
      printf '%s 12 8\n' $at.mlp.gate_proj.weight $at.mlp.up_proj.weight
      echo $at.mlp.down_proj.weight 8 12
      continue
    fi
    echo $at.mlp.gate.weight 4 8
    echo $at.mlp.gate.e_score_correction_bias 4
    for e in experts.0 experts.1 experts.2 experts.3 shared_experts; do
      printf '%s 6 8\n' $at.mlp.$e.gate_proj.weight $at.mlp.$e.up_proj.weight
      echo $at.mlp.$e.down_proj.weight 8 6
    done
  done
  echo model.norm.weight 8
  echo lm_head.weight 16 8
  echo model.layers.2.embed_tokens.weight 16 8
  printf 'model.layers.2.%s.weight 8\n' enorm hnorm shared_head.norm
  echo model.layers.2.eh_proj.weight 8 16
  echo model.layers.2.shared_head.head.weight 16 8
}
# header TYPE BYTES_OF_ONE   of the tensors on standard input; sets `header` and `data_bytes`
header() {
  local name rows columns from=0 to list=""
  while read -r name rows columns; do
    to=$((from + rows * ${columns:-1} * $2))
    list+=",\"$name\":{\"dtype\":\"$1\",\"shape\":[$rows${columns:+,$columns}],\"data_offsets\":[$from,$to]}"
    from=$to
  done
  header="{${list#,}}" data_bytes=$from
}
header F32 4 < <(tensors)
whole=$header whole_bytes=$data_bytes

model() {  # model NAME   a folder with a good model, to be broken; sets `at`
  at=$scratch/$1
  mkdir "$at" && cp "$scratch/config.json" "$at"
  safetensors "$at/model.safetensors" "$whole" "$whole_bytes"
}
ids() {  # ids NAME DTYPE SHAPE BYTES
  safetensors "$scratch/$1" "{\"input_ids\":{\"dtype\":\"$2\",\"shape\":$3,\"data_offsets\":[0,$4]}}" "$4"
}
ids ids.safetensors I64 '[2,5]' 80
model good
good=$at

# Zeros make every logit equal: the losses are ln 16. And the program that refuses so much still runs.
"$DSV3_BIN/dsv3-forward" --model "$good" --ids "$scratch/ids.safetensors" --out "$scratch/out.safetensors" \
  --grad > /dev/null || fail "a good model is refused"
data_of() {  # data_of FILE TENSOR   as 32-bit floats
  local text from to
  text=$(tail -c +9 "$1" | head -c "$(od -An -tu8 -N8 "$1")")
  text=${text#*\"$2\":} text=${text#*\"data_offsets\":[} from=${text%%,*} text=${text#*,} to=${text%%]*}
  tail -c +$((9 + $(od -An -tu8 -N8 "$1") + from)) "$1" | head -c $((to - from)) | od -An -tf4
}
for loss in loss mtp.1.loss; do
  data_of "$scratch/out.safetensors" $loss | grep -qE '^ *2\.77258[89]' ||
    fail "$loss is $(data_of "$scratch/out.safetensors" $loss), expected ln 16"
done
rm "$scratch/out.safetensors"

# against NAME SENTENCE [FLAG...]   the model NAME with the good tokens
against() {
  local name=$1 sentence=$2
  shift 2
  refuses 1 "$scratch/$name$sentence" dsv3-forward --model "$scratch/$name" --ids "$scratch/ids.safetensors" \
    --out "$scratch/out.safetensors" "$@"
}
# tokens NAME SENTENCE   the good model with the tokens NAME
tokens() {
  refuses 1 "$scratch/$1$2" dsv3-forward --model "$good" --ids "$scratch/$1" --out "$scratch/out.safetensors"
}

# ---- flags -------------------------------------------------------------------------------------------------
given=(--model "$good" --ids "$scratch/ids.safetensors" --out "$scratch/out.safetensors")
refuses 2 "--modl is not a known flag, the nearest is --model" dsv3-forward --modl "$good"
refuses 2 "--ids is required" dsv3-forward --model "$good" --out "$scratch/out.safetensors"
refuses 2 '*fp16*' dsv3-forward "${given[@]}" --precision fp16
refuses 2 '*--threads*' dsv3-forward "${given[@]}" --threads 0
refuses 2 '*--mtp-weight*' dsv3-forward "${given[@]}" --grad --mtp-weight -1
refuses 2 '*--mtp-weight*' dsv3-forward "${given[@]}" --grad --mtp-weight nan
refuses 2 'found "more", expected a flag' dsv3-forward "${given[@]}" more

# ---- tokens ------------------------------------------------------------------------------------------------
tokens none.safetensors ": cannot be opened: No such file or directory"
ids int32.safetensors I32 '[2,5]' 40
tokens int32.safetensors ": tensor input_ids has type I32, expected I64"
ids flat.safetensors I64 '[10]' 80
tokens flat.safetensors ": tensor input_ids has shape [10], expected 2 extents"
ids short.safetensors I64 '[2,2]' 32
tokens short.safetensors \
  ": input_ids has shape [2, 2], expected at least one row of 3 tokens, so that every depth has a target"
ids empty.safetensors I64 '[0,5]' 0
tokens empty.safetensors \
  ": input_ids has shape [0, 5], expected at least one row of 3 tokens, so that every depth has a target"
safetensors "$scratch/other.safetensors" '{"ids":{"dtype":"I64","shape":[2,5],"data_offsets":[0,80]}}' 80
tokens other.safetensors ": tensor input_ids is missing"
for value in '\020' '\377\377\377\377\377\377\377\377'; do  # 16, and -1
  cp "$scratch/ids.safetensors" "$scratch/range.safetensors"
  overwrite "$scratch/range.safetensors" $(($(stat -c %s "$scratch/range.safetensors") - 16)) "$value"
  tokens range.safetensors \
    ": input_ids[1, 3] is $([ "$value" = '\020' ] && echo 16 || echo -1), expected 0 to 15"
done
printf 'hello' > "$scratch/text.safetensors"
tokens text.safetensors ": 5 bytes found, expected the 8 of the header's length first"

# ---- files that are no models ------------------------------------------------------------------------------
against nowhere ": cannot be opened: No such file or directory"
mkdir "$scratch/bare"
against bare "/config.json: cannot be opened: No such file or directory"
cp "$scratch/config.json" "$scratch/bare"
against bare ": found neither model.safetensors nor model.safetensors.index.json"

broken() {  # broken NAME HEADER DATA_BYTES SENTENCE
  mkdir "$scratch/$1" && cp "$scratch/config.json" "$scratch/$1"
  safetensors "$scratch/$1/model.safetensors" "$2" "$3"
  against "$1" "/model.safetensors: $4"
}
model truncated
truncate -s -1 "$at/model.safetensors"
against truncated \
  "/model.safetensors: tensor * ends at byte $whole_bytes of the data, the file holds $((whole_bytes - 1))"
model headless
truncate -s 300 "$at/model.safetensors"
against headless "/model.safetensors: header of ${#whole} bytes announced, only 292 bytes follow"
model oversized
head -c 24 /dev/zero >> "$at/model.safetensors"
against oversized "/model.safetensors: 24 bytes found after the last tensor, expected none"
model huge
overwrite "$at/model.safetensors" 0 '\377\377\377\377\377\377\377\177'
against huge "/model.safetensors: header of 9223372036854775807 bytes announced, only * bytes follow"
broken duplicate "${whole%\}},${whole#\{}" "$whole_bytes" \
  'header: line 1, byte *: key "model.embed_tokens.weight" found twice in one object, expected distinct keys'
broken overlapping "${whole/\"data_offsets\":\[512,544\]/\"data_offsets\":[508,540]}" "$whole_bytes" \
  "tensor model.layers.0.input_layernorm.weight begins at byte 508 of the data, inside tensor *"
broken hole "${whole/\"data_offsets\":\[0,512\]/\"data_offsets\":[4,516]}" "$((whole_bytes + 4))" \
  "tensor model.embed_tokens.weight begins at byte 4 of the data, expected 0: *"
broken shape "${whole/\[16,8\]/[16,9]}" "$whole_bytes" \
  "tensor model.embed_tokens.weight has 512 bytes, its shape [16, 9] of F32 needs 576"
broken overflow "${whole/\[16,8\]/[4611686018427387904,4611686018427387904]}" "$whole_bytes" \
  "tensor model.embed_tokens.weight: shape is [4*4,4*4], expected a product of extents that fits in 63 bits"
broken negative "${whole/\[16,8\]/[-16,-8]}" "$whole_bytes" \
  "tensor model.embed_tokens.weight: shape is [-16,-8], expected an array, each an integer of at least 0"
broken backwards "${whole/\"data_offsets\":\[0,512\]/\"data_offsets\":[512,0]}" "$whole_bytes" \
  "tensor model.embed_tokens.weight: data_offsets is [512,0], expected [begin, end] with begin not after end"
broken unknown_type "${whole/\"F32\"/\"F99\"}" "$whole_bytes" \
  'tensor model.embed_tokens.weight: dtype is "F99", expected one of F64, F32, F16, BF16, *'
broken garbage '{"a' 0 'header: line 1, byte *'
broken nested "$(printf '{"a":%.0s' {1..100})" 0 'header: line 1, byte *: nested deeper than 8 levels'

# ---- whole files with the wrong tensors --------------------------------------------------------------------
header F16 2 < <(tensors)
broken half "$header" "$data_bytes" "tensor model.embed_tokens.weight has type F16, expected F64, F32 or BF16"
header F32 4 < <(tensors | grep -v 'experts.2.up_proj')
mkdir "$scratch/missing" && cp "$scratch/config.json" "$scratch/missing"
safetensors "$scratch/missing/model.safetensors" "$header" "$data_bytes"
against missing ": tensor model.layers.1.mlp.experts.2.up_proj.weight is missing"
header F32 4 < <(tensors | sed 's/^lm_head.weight 16 8/lm_head.weight 16 9/')
broken wide "$header" "$data_bytes" "tensor lm_head.weight has shape [16, 9], expected [16, 8]"
header F32 4 < <(tensors && echo model.layers.1.mlp.experts.4.up_proj.weight 6 8)
broken more "$header" "$data_bytes" \
  "tensor model.layers.1.mlp.experts.4.up_proj.weight is unknown to the config beside it, the nearest *"
model unshared
overwrite "$at/model.safetensors" $(($(stat -c %s "$at/model.safetensors") - 1)) '\1'
against unshared \
  "/model.safetensors: tensor model.layers.2.shared_head.head.weight differs from lm_head.weight, *"

# ---- shards ------------------------------------------------------------------------------------------------
model sharded
mv "$at/model.safetensors" "$at/model-00001-of-00002.safetensors"
{
  printf '{"weight_map":{"another.weight":"model-00002-of-00002.safetensors"'
  tensors | while read -r name _; do printf ',"%s":"model-00001-of-00002.safetensors"' "$name"; done
  printf '}}'
} > "$at/model.safetensors.index.json"
against sharded "/model-00002-of-00002.safetensors: shard is missing, the index names it"
safetensors "$at/model-00002-of-00002.safetensors" '{}' 0
against sharded \
  "/model-00002-of-00002.safetensors: tensor another.weight is missing, the index says it is here"
sed -i 's/"another.weight":"model-00002-of-00002.safetensors",//' "$at/model.safetensors.index.json"
"$DSV3_BIN/dsv3-forward" --model "$at" --ids "$scratch/ids.safetensors" --out "$scratch/shards.safetensors" ||
  fail "a good model in shards is refused"
sed -i 's/"model-00001-of-00002.safetensors"/"..\/good\/model.safetensors"/' \
  "$at/model.safetensors.index.json"
against sharded \
  '/model.safetensors.index.json: weight_map: * is "../good/model.safetensors", expected the name of a file *'

# ---- configs -----------------------------------------------------------------------------------------------
config() {  # config NAME SED_SCRIPT SENTENCE
  model "$1"
  sed -i "$2" "$at/config.json"
  against "$1" "$3"
}
config other_config 's/"hidden_size": 8/"hidden_size": 10/' \
  "/model.safetensors: tensor model.embed_tokens.weight has shape [16, 8], expected [16, 10]"
config shallow 's/"num_hidden_layers": 2/"num_hidden_layers": 1/' "*"
config unknown_key 's/"hidden_size"/"hiden_sizes": 1, "hidden_size"/' \
  "/config.json: hiden_sizes is not a known key, the nearest is hidden_size"
config no_key '/vocab_size/s/"vocab_size": 16, //' \
  "/config.json: vocab_size is missing, expected an integer from 1 to 16777216"
config text 's/"hidden_size": 8/"hidden_size": "8"/' \
  '/config.json: hidden_size is "8", expected an integer from 1 to 1048576'
config llama 's/deepseek_v3/llama/' '/config.json: model_type is "llama", expected deepseek_v3 or deepseek_v2'
config groups 's/"n_group": 2/"n_group": 3/' \
  "/config.json: router: the groups must divide the experts, found experts 4, groups 3"
config odd 's/"qk_rope_head_dim": 2/"qk_rope_head_dim": 3/' \
  "/config.json: model config: qk_rope_head_dim must be positive and even: *, found qk_rope_head_dim 3"
config cut '$d' "/config.json: line *, byte *"
config fp8 's/"model_type"/"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}, "model_type"/' \
  '/config.json: quantization_config: weight_block_size is missing, expected an array, each a positive integer'
config softmax 's/"model_type": "deepseek_v3"/"model_type": "deepseek_v2"/' \
  "/config.json: scoring_func is softmax, expected sigmoid: softmax routers can be planned, not run"

# ---- where the answer goes ---------------------------------------------------------------------------------
refuses 1 "$scratch/none/out.safetensors: cannot be created: No such file or directory" \
  dsv3-forward --model "$good" --ids "$scratch/ids.safetensors" --out "$scratch/none/out.safetensors"
mkfifo "$scratch/pipe"
refuses 1 "$scratch/pipe: found a device or pipe, expected the name of a file to write" \
  dsv3-forward --model "$good" --ids "$scratch/ids.safetensors" --out "$scratch/pipe"
ulimit -S -f 8
refuses 1 "$scratch/out.safetensors: * more bytes cannot be written: File too large" \
  dsv3-forward --model "$good" --ids "$scratch/ids.safetensors" --out "$scratch/out.safetensors" --grad
ulimit -S -f unlimited
refuses 1 "$scratch/good: found a folder, expected the name of a file to write" dsv3-forward --model "$good" \
  --ids "$scratch/ids.safetensors" --out "$scratch/good"

left=$(find "$scratch" -name 'out.safetensors' -o -name '*.dsv3-part')
[ -z "$left" ] || fail "refused work leaves files behind: $left"
finish
