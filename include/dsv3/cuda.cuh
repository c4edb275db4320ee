// SPDX-License-Identifier: MIT
// Everything backend-free, and the bodies for NVIDIA GPUs.
#pragma once

#include <dsv3/dsv3.hpp>

#include <dsv3/cuda/attention/latent_cache.cuh>
#include <dsv3/cuda/attention/mla_attention.cuh>
#include <dsv3/cuda/attention/mla_attention_sm90.cuh>
#include <dsv3/cuda/attention/mla_decode.cuh>
#include <dsv3/cuda/attention/mla_decode_sm90.cuh>
#include <dsv3/cuda/embedding/embedding.cuh>
#include <dsv3/cuda/expert/expert_ranks.cuh>
#include <dsv3/cuda/expert/permute.cuh>
#include <dsv3/cuda/expert/swiglu.cuh>
#include <dsv3/cuda/host/annotate.cuh>
#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/linear/batched_gemm.cuh>
#include <dsv3/cuda/linear/gemm.cuh>
#include <dsv3/cuda/linear/grouped_gemm.cuh>
#include <dsv3/cuda/linear/grouped_gemm_sm90.cuh>
#include <dsv3/cuda/linear/scaled_gemm.cuh>
#include <dsv3/cuda/linear/scaled_gemm_sm90.cuh>
#include <dsv3/cuda/linear/scaled_grouped_gemm.cuh>
#include <dsv3/cuda/linear/scaled_grouped_gemm_sm90.cuh>
#include <dsv3/cuda/loss/cross_entropy.cuh>
#include <dsv3/cuda/memory/add.cuh>
#include <dsv3/cuda/memory/copy.cuh>
#include <dsv3/cuda/memory/fill.cuh>
#include <dsv3/cuda/memory/gather_rows.cuh>
#include <dsv3/cuda/norm/rms_norm.cuh>
#include <dsv3/cuda/optim/adamw.cuh>
#include <dsv3/cuda/optim/global_norm.cuh>
#include <dsv3/cuda/quant/adamw_quantizer.cuh>
#include <dsv3/cuda/quant/dispatch_quantizer.cuh>
#include <dsv3/cuda/quant/rms_norm_quantizer.cuh>
#include <dsv3/cuda/quant/stored_rows.cuh>
#include <dsv3/cuda/quant/stored_swiglu.cuh>
#include <dsv3/cuda/quant/swiglu_quantizer.cuh>
#include <dsv3/cuda/quant/tile_quantizer.cuh>
#include <dsv3/cuda/quant/transposing_quantizer.cuh>
#include <dsv3/cuda/rope/decoupled_rope.cuh>
#include <dsv3/cuda/routing/balance.cuh>
#include <dsv3/cuda/routing/router.cuh>
#include <dsv3/cuda/routing/router_sm90.cuh>
#include <dsv3/cuda/sample/accept_draft.cuh>
#include <dsv3/cuda/sample/token_distribution.cuh>
