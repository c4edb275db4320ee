// SPDX-License-Identifier: MIT
#include "run.hpp"

template void forward::run<dsv3::bf16_mixed>(const forward::request&);
