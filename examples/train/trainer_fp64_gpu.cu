// SPDX-License-Identifier: MIT
// The trainer in fp64 on a GPU.
#include "gpu_place.cuh"
#include "gpu_trainer.hpp"
#include "trainer_body.hpp"

namespace dsv3_train {

template <class Backend>
using gpu_trainer_of = trainer_of<dsv3::fp64_reference, gpu_place<Backend, dsv3::fp64_reference>>;

const trainer_kind fp64_gpu_trainer{gpu_trainer_of<dsv3::backend::cuda>::plan,
                                    gpu_trainer_of<dsv3::backend::cuda>::make};

}  // namespace dsv3_train
