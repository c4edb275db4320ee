// SPDX-License-Identifier: MIT
#include "run.hpp"

template void generate::run<dsv3::fp64_reference>(const generate::request&);
