// SPDX-License-Identifier: MIT
// Functions that one compiler defines and the other calls; every public type of floors 0 to 2 that crosses is
// named.
#pragma once

#include <dsv3/exec/context.hpp>
#include <dsv3/exec/random.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/tensor/bundle.hpp>
#include <dsv3/tensor/paged.hpp>
#include <dsv3/tensor/ragged.hpp>
#include <dsv3/tensor/scaled.hpp>

#include <string>

struct across_config {
  dsv3::index_t rows = 0, columns = 0;
};

template <class Matrix>
struct across_tensors {
  across_config config;
  dsv3::view<Matrix, 2> matrix;
  dsv3::view<float, 1> gain;

  template <class Visit, class... Self>
  static void each_field(const across_config& c, Visit&& visit, Self&... self) {
    visit("matrix", dsv3::shape{c.rows, c.columns}, self.matrix...);
    visit("gain", dsv3::shape{c.columns}, self.gain...);
  }
};

// Defined by nvcc, called by g++.
float device_sum(dsv3::view<const dsv3::bf16, 2> values);
float device_last(const dsv3::ragged_view<const float>& rows, const dsv3::paged_view<const float>& cache,
                  const dsv3::scaled_view<dsv3::bf16, dsv3::tile<1, 128>>& scaled);
dsv3::status device_status(const dsv3::cpu_context<>& ctx, const across_tensors<dsv3::bf16>& bundle);

// Defined by g++, called by nvcc.
float host_sum(dsv3::view<const dsv3::bf16, 2> values);
dsv3::shape host_shape(const across_tensors<dsv3::bf16>& bundle, const dsv3::random_stream& random);
