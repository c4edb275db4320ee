// SPDX-License-Identifier: MIT
// Everything backend-free, and the CPU's bodies.
#pragma once

#include <dsv3/dsv3.hpp>

#include <dsv3/cpu/attention/latent_cache.hpp>
#include <dsv3/cpu/attention/mla_attention.hpp>
#include <dsv3/cpu/attention/mla_decode.hpp>
#include <dsv3/cpu/embedding/embedding.hpp>
#include <dsv3/cpu/expert/expert_ranks.hpp>
#include <dsv3/cpu/expert/permute.hpp>
#include <dsv3/cpu/expert/swiglu.hpp>
#include <dsv3/cpu/linear/batched_gemm.hpp>
#include <dsv3/cpu/linear/gemm.hpp>
#include <dsv3/cpu/linear/grouped_gemm.hpp>
#include <dsv3/cpu/linear/scaled_gemm.hpp>
#include <dsv3/cpu/linear/scaled_grouped_gemm.hpp>
#include <dsv3/cpu/loss/cross_entropy.hpp>
#include <dsv3/cpu/memory/add.hpp>
#include <dsv3/cpu/memory/copy.hpp>
#include <dsv3/cpu/memory/fill.hpp>
#include <dsv3/cpu/memory/gather_rows.hpp>
#include <dsv3/cpu/norm/rms_norm.hpp>
#include <dsv3/cpu/optim/adamw.hpp>
#include <dsv3/cpu/optim/global_norm.hpp>
#include <dsv3/cpu/quant/adamw_quantizer.hpp>
#include <dsv3/cpu/quant/dispatch_quantizer.hpp>
#include <dsv3/cpu/quant/rms_norm_quantizer.hpp>
#include <dsv3/cpu/quant/stored_rows.hpp>
#include <dsv3/cpu/quant/stored_swiglu.hpp>
#include <dsv3/cpu/quant/swiglu_quantizer.hpp>
#include <dsv3/cpu/quant/tile_quantizer.hpp>
#include <dsv3/cpu/quant/transposing_quantizer.hpp>
#include <dsv3/cpu/rope/decoupled_rope.hpp>
#include <dsv3/cpu/routing/balance.hpp>
#include <dsv3/cpu/routing/router.hpp>
#include <dsv3/cpu/sample/accept_draft.hpp>
#include <dsv3/cpu/sample/token_distribution.hpp>
