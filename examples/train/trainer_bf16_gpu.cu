// SPDX-License-Identifier: MIT
// The trainer in bf16 on a GPU.
#include "gpu_place.cuh"
#include "gpu_trainer.hpp"
#include "trainer_body.hpp"

namespace dsv3_train {

template <class Backend>
using gpu_trainer_of = trainer_of<dsv3::bf16_mixed, gpu_place<Backend, dsv3::bf16_mixed>>;

const trainer_kind bf16_gpu_trainer{gpu_trainer_of<dsv3::backend::cuda>::plan,
                                    gpu_trainer_of<dsv3::backend::cuda>::make};
const trainer_kind bf16_hopper_trainer{gpu_trainer_of<dsv3::backend::hopper>::plan,
                                       gpu_trainer_of<dsv3::backend::hopper>::make};

}  // namespace dsv3_train
