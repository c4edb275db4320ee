// SPDX-License-Identifier: MIT
// The version of the library; the build reads it from here.
#pragma once

#define DSV3_VERSION_MAJOR 0
#define DSV3_VERSION_MINOR 1
#define DSV3_VERSION_PATCH 0
/// One comparable number: major * 10000 + minor * 100 + patch.
#define DSV3_VERSION (DSV3_VERSION_MAJOR * 10000 + DSV3_VERSION_MINOR * 100 + DSV3_VERSION_PATCH)
