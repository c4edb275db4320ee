// SPDX-License-Identifier: MIT
// The half that nvcc compiles.
#include "shared.hpp"

// A kernel that takes the views by value: they are what kernels are launched with.
__global__ void scale_rows(dsv3::view<dsv3::bf16, 2> values, dsv3::view<const float, 1> gain) {
  const dsv3::index_t row = blockIdx.x, column = threadIdx.x;
  values(row, column) = static_cast<float>(values(row, column)) * gain(column);
}

float device_sum(dsv3::view<const dsv3::bf16, 2> values) { return 2 * host_sum(values); }

float device_last(const dsv3::ragged_view<const float>& rows, const dsv3::paged_view<const float>& cache,
                  const dsv3::scaled_view<dsv3::bf16, dsv3::tile<1, 128>>& scaled) {
  return rows.group(1)(0, 1) + cache.row(0, 1)(1) +
         static_cast<float>(scaled.values(0, 5)) * scaled.scale_of(0, 5);
}

dsv3::status device_status(const dsv3::cpu_context<>& ctx, const across_tensors<dsv3::bf16>& bundle) {
  return dsv3::status{std::to_string(ctx.threads) + " threads, " +
                      to_string(host_shape(bundle, dsv3::random_stream{0, 0}))};
}
