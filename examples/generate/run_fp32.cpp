// SPDX-License-Identifier: MIT
#include "run.hpp"

template void generate::run<dsv3::fp32>(const generate::request&);
