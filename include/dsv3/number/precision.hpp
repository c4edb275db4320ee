// SPDX-License-Identifier: MIT
// A precision names the role of every number; code asks for the role, the policy says what it is.
#pragma once

#include <dsv3/number/bf16.hpp>
#include <dsv3/number/fp8.hpp>

#include <concepts>

namespace dsv3::inline DSV3_ABI {

/// How a matrix product sees its inputs: plain values of one element type.
template <class Element>
struct dense_operand {
  using element = Element;
};

/// 8-bit numbers with one scale per tile: 1x128 of activations and gradients, 128x128 of weights.
template <class Element>
struct tile_operand {
  using element = Element;
};

/// Everything in double: the wing that finite differences and oracles are compared with.
struct fp64_reference {
  using activation = double;   // flows between layers, row by row
  using weight = double;       // matrices read by forward
  using master = double;       // updated by the optimiser; norm gains, router weights
  using gradient = double;     // of weights; accumulates
  using moment = double;       // optimiser state
  using accumulator = double;  // inside any reduction; scores, statistics, losses
  using operand = dense_operand<double>;
  static constexpr const char* name = "fp64";
};

/// Everything in float: the default of the CPU trainer.
struct fp32 {
  using activation = float;
  using weight = float;
  using master = float;
  using gradient = float;
  using moment = float;
  using accumulator = float;
  using operand = dense_operand<float>;
  static constexpr const char* name = "fp32";
};

/// BF16 weights and activations over float masters, gradients and sums; BF16 moments (report, section 3.3.3).
struct bf16_mixed {
  using activation = bf16;
  using weight = bf16;
  using master = float;
  using gradient = float;
  using moment = bf16;
  using accumulator = float;
  using operand = dense_operand<bf16>;
  static constexpr const char* name = "bf16";
};

/// bf16_mixed whose linear layers multiply 8-bit operands in scaled tiles (report, section 3.3). Embedding,
/// output head, MTP's joint projection, router, norms and the attention core stay as they are there.
struct fp8_tilewise {
  using activation = bf16;
  using weight = bf16;  // of the products that stay in BF16
  using master = float;
  using gradient = float;
  using moment = bf16;
  using accumulator = float;
  using operand = tile_operand<fp8_e4m3>;
  static constexpr const char* name = "fp8";
};

// One concept per role, so that a policy without it is refused by the role's name.
// clang-format off
template <class P> concept names_activation = requires { typename P::activation; };
template <class P> concept names_weight = requires { typename P::weight; };
template <class P> concept names_master = requires { typename P::master; };
template <class P> concept names_gradient = requires { typename P::gradient; };
template <class P> concept names_moment = requires { typename P::moment; };
template <class P> concept names_accumulator = requires { typename P::accumulator; };
template <class P> concept names_operand = requires { typename P::operand; };
// clang-format on

/// A policy that names all seven roles. Derive from a named policy and replace one role to make your own.
template <class P>
concept precision = names_activation<P> && names_weight<P> && names_master<P> && names_gradient<P> &&
    names_moment<P> && names_accumulator<P> && names_operand<P>;

// clang-format off
template <class P> using activation = typename P::activation;
template <class P> using weight = typename P::weight;
template <class P> using master = typename P::master;
template <class P> using gradient = typename P::gradient;
template <class P> using moment = typename P::moment;
template <class P> using accumulator = typename P::accumulator;
// clang-format on

}  // namespace dsv3::inline DSV3_ABI
