// SPDX-License-Identifier: MIT
// The choices that fine-grained FP8 training leaves open, with the report's as defaults (section 3.3).
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/number/scale.hpp>

namespace dsv3::inline DSV3_ABI {

/// What adds up the products of 8-bit numbers.
/// fp32         floats; where Hopper's own matrix unit multiplies, it adds up the 128 products of a tile, and
///              floats add up tiles
/// hopper_fp22  a model of Hopper's matrix unit: in every step of 32 products, these and the running sum are
///              cut to 13 bits below the leading bit of the largest of them, and so is what they add up to
///              (report, section 3.5.2; the hardware is undocumented)
enum class accumulator_model { fp32, hopper_fp22 };

struct scaled_product_options {
  accumulator_model accumulator = accumulator_model::fp32;
  index_t promotion = 128;  // of hopper_fp22: products after which a sum moves to a float; 0: at its end
};

/// Which values share one scale.
/// tile    the operand's tile: 128 neighbours along the sum
/// block   128 of them, of 128 rows
/// tensor  all
enum class scale_group { tile, block, tensor };

enum class gradient_format { e4m3, e5m2 };

/// How what backward reads again is kept.
enum class stored_format { bf16, e4m3, e5m6 };

struct fp8_recipe {
  scaled_product_options product;
  scale_kind scales = scale_kind::real;
  scale_kind exchanged_scales = scale_kind::power_of_two;  // attention output; rows going to experts
  scale_group inputs = scale_group::tile, gradients = scale_group::tile;
  scale_group weights = scale_group::block;  // block or tensor
  gradient_format gradient = gradient_format::e4m3;
  stored_format attention_output = stored_format::e5m6;
  stored_format swiglu_input = stored_format::e4m3;
};

}  // namespace dsv3::inline DSV3_ABI
