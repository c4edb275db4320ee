#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-plan gives the published figures, and one sentence with the right exit code for what makes no sense.
source "$(dirname "$0")/../support/program.sh"
needs dsv3-plan
plan=$DSV3_BIN/dsv3-plan

# has SIZE group.name=number...   in the JSON of a named size
has() {
  local size=$1 entry
  shift
  "$plan" --preset "$size" --json > "$scratch/$size.json" || fail "--preset $size --json exits with $?"
  awk -F '"' '
    /^  "/ { group = $2 }
    /^    "/ { gsub(/[:, ]/, "", $3); print group "." $2 "=" $3 }' "$scratch/$size.json" > "$scratch/figures"
  for entry in "$@"; do grep -Fxq "$entry" "$scratch/figures" || fail "--preset $size says no $entry"; done
}
has v3 attention_layer.{q_a_proj.weight=11010048,q_a_layernorm.weight=1536,q_b_proj.weight=37748736} \
  attention_layer.{kv_a_proj_with_mqa.weight=4128768,kv_a_layernorm.weight=512,kv_b_proj.weight=16777216} \
  attention_layer.{o_proj.weight=117440512,total=187107328} dense_layer.{norms=14336,mlp=396361728} \
  expert_layer.{one_expert=44040192,routed_experts=11274289152,shared_experts=44040192,router=1835008} \
  expert_layer.{router_bias=256,experts_and_router=11320164608,norms=14336} \
  parameters.{embedding=926679040,head=926679040,attention=11413547008,norms=881664,dense=1189085184} \
  parameters.{routed_experts=653908770816,shared_experts=2554331136,router=106430464,router_bias=14848} \
  parameters.{total=671026419200,activated=37552297472,activated_without_embedding=36625618432} \
  mtp.{attention=187107328,norms=35840,projection=102760448,feed_forward=11320164608,unique=11610068224} \
  mtp.{stored_copies=1853358080,stored=13463426304,file_total=684489845504} \
  cache_per_token.{layer=1152,model=70272,model_with_mtp=71424,fp8_layer=656,fp8_model=40016} \
  cache_per_token.{plain_attention_layer=81920,plain_attention_model=4997120} \
  flops_per_token.{length=4096,matrix_parameters=36624596992,linear_forward=73249193984} \
  flops_per_token.{attention_forward_causal=10236600320,attention_forward_non_causal=20468203520} \
  flops_per_token.{forward_causal=83485794304,forward_non_causal=93717397504} \
  flops_per_token.{training_causal=250457382912,training_non_causal=281152192512} \
  flops_per_token.{mtp_matrix_parameters=1614741504,mtp_training_causal=10191888384} \
  flops_per_token.{mtp_training_non_causal=10695081984,training_with_mtp_causal=260649271296} \
  flops_per_token.training_with_mtp_non_causal=291847274496 \
  decode_per_token.{context=4096,attention_per_key_and_layer=278528,attention=69591891968,total=142841085952}
has v2 parameters.{total=235741434880,activated=21375800320,activated_without_embedding=20851512320}
has v2-lite parameters.{total=15706484224,activated=2661150208,activated_without_embedding=2451435008} \
  cache_per_token.{layer=1152,model=31104}
has moonlight parameters.{total=15960110208,activated=2914776192,activated_without_embedding=2579231872} \
  cache_per_token.{layer=1152,model=31104}
has tiny parameters.{total=6134704,activated=2595760,activated_without_embedding=2464688} mtp.unique=1920432 \
  cache_per_token.{layer=160,model=640}
has mini parameters.{total=168898432,activated=36777856,activated_without_embedding=34680704} \
  mtp.unique=26921920 cache_per_token.{layer=320,model=2560}
"$plan" --preset v3 --context 1024 --json | grep -q '"total": 90647166976,\?$' ||
  fail "--context 1024 is not 90.6 GF"

"$plan" --preset tiny --explain | grep -q '= 2 (kv_rank + qk_rope)' || fail "--explain shows no formula"

# The plan of training: bf16 adds matrices beside their masters, less is kept on request.
"$plan" --preset tiny --json --batch 4 --seq 64 --precision bf16 > "$scratch/bf16.json"
"$plan" --preset tiny --json --batch 4 --seq 64 --keep inputs > "$scratch/inputs.json"
"$plan" --preset tiny --json --batch 4 --seq 64 > "$scratch/all.json"
number() { sed -n "s/^ *\"$2\": \([0-9]*\),\?\$/\1/p" "$scratch/$1.json" | tail -n 1; }
[ "$(number all weights)" -eq 0 ] || fail "fp32 weights lie beside their masters"
[ "$(number bf16 weights)" -gt $((2 * 7000000)) ] || fail "bf16 weights take $(number bf16 weights) bytes"
[ "$(number bf16 moments)" -eq "$(number bf16 masters)" ] ||
  fail "two bf16 moments do not take the bytes of one master"
[ "$(number inputs activations)" -lt "$(number all activations)" ] ||
  fail "--keep inputs keeps as much as everything"

refuses 2 "--presett is not a known flag, the nearest is --preset" dsv3-plan --presett v3
sizes="tiny, midi, mini, small, bench-3b, moonlight, v2-lite, v2, v3"
refuses 2 "model: no size is named \"tny\", expected one of $sizes; the nearest is tiny" \
  dsv3-plan --preset tny
refuses 2 "$scratch/none.json: cannot be opened: No such file or directory" \
  dsv3-plan --config "$scratch/none.json"
refuses 2 "--batch times --seq is more than 2147483647 tokens, expected at most that many" \
  dsv3-plan --preset tiny --batch 1000000 --seq 1000000
"$plan" --preset tiny --json | sed -n '/"config": {/,/^  },/p' | sed '1s/.*/{/; $s/,$//' \
  > "$scratch/config.json"
"$plan" --config "$scratch" --json > "$scratch/read.json" || fail "a config of our own is refused"
cmp -s "$scratch/read.json" "$scratch/tiny.json" ||
  fail "a config that was read gives other figures than the named size"
sed -i 's/"hidden_size"/"hiden_size"/' "$scratch/config.json"
refuses 2 "$scratch/config.json: hidden_size is missing, expected an integer from 1 to 1048576" \
  dsv3-plan --config "$scratch"
for flag in seq context batch threads; do
  for value in 0 -1 1.5 x; do
    refuses 2 "--$flag: found \"$value\", expected a whole number *" dsv3-plan --preset tiny --$flag $value
  done
done
refuses 2 '--precision: found "fp8", expected one of fp32, bf16, fp64' dsv3-plan --preset tiny --precision fp8
refuses 2 '--keep: found "x", expected one of everything, attention, inputs' dsv3-plan --preset tiny --keep x
refuses 2 "Exactly 1 option from [--preset,--config] is required" dsv3-plan
refuses 2 "Exactly 1 option from [--preset,--config] is required and 2 were given" \
  dsv3-plan --preset tiny --config "$scratch"
# The report's cluster: 180,000 hours for 10^12 tokens, 2.788 million in all, 5.576 million USD.
"$plan" --preset v3 --gpus 2048 --pp 16 --ep 64 --dp 2 --json > "$scratch/cluster.json" || fail "--gpus exits with $?"
for entry in '"gpu_hours": 2788000' '"price": 5576000' '"pre_training_hours": 2664000' \
  '"tokens_per_second_and_gpu": 1543.2' '"days_per_1e12_tokens": 3.66' '"micro_batches": 120'; do
  grep -q "^    $entry,*\$" "$scratch/cluster.json" || fail "--gpus 2048 says no $entry"
done
refuses 2 "layout: as many GPUs as pipeline ranks times expert ranks times replicas are expected, found GPUs 2048, ranks 1920" \
  dsv3-plan --preset v3 --gpus 2048 --pp 15
refuses 2 '--product-share: found "1.5", expected a share, above 0 and at most 1' \
  dsv3-plan --preset v3 --gpus 2048 --product-share 1.5
refuses 2 "--gpus plans training: models with softmax routers can be planned, not run" \
  dsv3-plan --preset v2 --gpus 2048
finish
