// SPDX-License-Identifier: MIT
#include "run.hpp"

template void forward::run<dsv3::fp64_reference>(const forward::request&);
