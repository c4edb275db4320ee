// SPDX-License-Identifier: MIT
// The trainer in 8-bit tiles on a GPU.
#include "gpu_place.cuh"
#include "gpu_trainer.hpp"
#include "trainer_body.hpp"

namespace dsv3_train {

template <class Backend>
using gpu_trainer_of = trainer_of<dsv3::fp8_tilewise, gpu_place<Backend, dsv3::fp8_tilewise>>;

const trainer_kind fp8_gpu_trainer{gpu_trainer_of<dsv3::backend::cuda>::plan,
                                   gpu_trainer_of<dsv3::backend::cuda>::make};
const trainer_kind fp8_hopper_trainer{gpu_trainer_of<dsv3::backend::hopper>::plan,
                                      gpu_trainer_of<dsv3::backend::hopper>::make};

}  // namespace dsv3_train
