// SPDX-License-Identifier: MIT
// The half that g++ compiles, and the program.
#include "shared.hpp"

#include <cstdint>

float host_sum(dsv3::view<const dsv3::bf16, 2> values) {
  float sum = 0;
  for (dsv3::index_t i = 0; i < values.extent(0); ++i)
    for (dsv3::index_t j = 0; j < values.extent(1); ++j) sum += values(i, j);
  return sum;
}

dsv3::shape host_shape(const across_tensors<dsv3::bf16>& bundle, const dsv3::random_stream& random) {
  return {bundle.matrix.extent(0), bundle.matrix.extent(1),
          static_cast<dsv3::index_t>(random.at(0).value[0])};
}

int main() {
  dsv3::bf16 values[6] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f};
  float gain[3] = {1, 2, 3};
  if (device_sum(dsv3::view{values, 2, 3}) != 42) return 1;

  const std::int32_t offsets[] = {0, 1, 2}, counts[] = {1, 1}, table[] = {0}, lengths[] = {2};
  const float rows[] = {1, 2, 3, 4};
  const dsv3::ragged_view<const float> ragged{dsv3::view{rows, 2, 2}, dsv3::view{offsets, 3},
                                              dsv3::view{counts, 2}};
  const dsv3::paged_view<const float> paged{dsv3::view{rows, 1, 2, 2}, dsv3::view{table, 1, 1},
                                            dsv3::view{lengths, 1}};
  float scale[] = {10};
  const dsv3::scaled_view<dsv3::bf16, dsv3::tile<1, 128>> scaled{
      dsv3::view{values, 1, 6}, dsv3::view<float, 2, dsv3::strided>{scale, 1, 1}};
  if (device_last(ragged, paged, scaled) != 4 + 4 + 60) return 2;

  dsv3::cpu_context<> ctx{.threads = 3};
  const across_tensors<dsv3::bf16> bundle{{2, 3}, dsv3::view{values, 2, 3}, dsv3::view{gain, 3}};
  return device_status(ctx, bundle).message() == "3 threads, [2, 3, 1713891541]" ? 0 : 3;
}
