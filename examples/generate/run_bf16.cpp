// SPDX-License-Identifier: MIT
#include "run.hpp"

template void generate::run<dsv3::bf16_mixed>(const generate::request&);
