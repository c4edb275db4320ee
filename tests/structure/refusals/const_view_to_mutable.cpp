// SPDX-License-Identifier: MIT
// A view of constants does not become a view of variables; the other way round is implicit.
// errors: 1
// says: could not convert 'input'
// says: 'view<const float,[...]>' to 'view<float,[...]>'
#include <dsv3/tensor/view.hpp>

#if defined(DSV3_ALLOWED)
using given = float;
using wanted = const float;
#else
using given = const float;
using wanted = float;
#endif

dsv3::view<wanted, 2> pass(dsv3::view<given, 2> input) { return input; }
