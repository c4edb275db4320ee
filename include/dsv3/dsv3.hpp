// SPDX-License-Identifier: MIT
// Everything that needs neither a backend nor another library.
#pragma once

#include <dsv3/comm/solo.hpp>
#include <dsv3/exec/counting_memory.hpp>
#include <dsv3/exec/measure.hpp>
#include <dsv3/exec/random.hpp>
#include <dsv3/exec/trace.hpp>
#include <dsv3/exec/verify.hpp>
#include <dsv3/model/accounting.hpp>
#include <dsv3/model/deepseek_v3.hpp>
#include <dsv3/model/initialize.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/number/traits.hpp>
#include <dsv3/op/attention/mla_attention.hpp>
#include <dsv3/op/embedding/embedding.hpp>
#include <dsv3/op/expert/permute.hpp>
#include <dsv3/op/expert/swiglu.hpp>
#include <dsv3/op/linear/gemm.hpp>
#include <dsv3/op/linear/grouped_gemm.hpp>
#include <dsv3/op/loss/cross_entropy.hpp>
#include <dsv3/op/memory/add.hpp>
#include <dsv3/op/memory/copy.hpp>
#include <dsv3/op/memory/fill.hpp>
#include <dsv3/op/norm/rms_norm.hpp>
#include <dsv3/op/optim/adamw.hpp>
#include <dsv3/op/optim/global_norm.hpp>
#include <dsv3/op/rope/decoupled_rope.hpp>
#include <dsv3/op/routing/balance.hpp>
#include <dsv3/op/routing/router.hpp>
#include <dsv3/tensor/layout_policy.hpp>
#include <dsv3/tensor/paged.hpp>
#include <dsv3/tensor/scaled.hpp>
#include <dsv3/train/schedule.hpp>
#include <dsv3/train/step.hpp>
