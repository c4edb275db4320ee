// SPDX-License-Identifier: MIT
#include "run.hpp"

template void forward::run<dsv3::fp32>(const forward::request&);
