// SPDX-License-Identifier: MIT
// Forward declarations, for headers of other projects.
#pragma once

#include <dsv3/base/config.hpp>
#include <dsv3/tensor/layout.hpp>

namespace dsv3::inline DSV3_ABI {

class error;
class status;
struct bf16;
struct fp64_reference;
struct fp32;
struct bf16_mixed;
struct default_layout;
struct compact_layout;
class shape;
template <class T, int Rank, class Layout>
class view;
template <class T>
struct ragged_view;
template <class T>
struct paged_view;
struct packed_sequences;
class memory_resource;
class host_memory;
class scratch_arena;
template <class Bundle>
struct owned;
template <class Backend>
struct cpu_context;
class any_communicator;
class comm_engine;
class solo;

namespace backend {
struct cpu;
struct cuda;
}  // namespace backend

}  // namespace dsv3
