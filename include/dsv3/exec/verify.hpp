// SPDX-License-Identifier: MIT
// backend::verify<B, Reference>: run both, compare, report the first difference.
#pragma once

#include <dsv3/exec/dispatch.hpp>

#include <cmath>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// What a verifying context compares with and writes to.
struct verify_log {
  double tolerance = 1e-5;  // allowed |difference| as a share of the reference's largest finite magnitude
  std::vector<std::string> differences = {};  // one sentence for each output that differs
};

namespace backend {
/// Runs the bodies of B, then those of Reference on the same inputs, both in host memory. B's results stay.
template <class B, class Reference>
struct verify {};
}  // namespace backend

template <class B, class Reference>
struct backend_state<backend::verify<B, Reference>> {
  verify_log* log = nullptr;
  [[no_unique_address]] backend_state<B> inner = {};
};

namespace detail {

template <class T, int Rank, class Layout, class Visit>
void each_element(const view<T, Rank, Layout>& v, Visit&& visit) {
  if constexpr (Rank == 1) {
    for (index_t i = 0; i < v.extent(0); ++i) visit(v(i));
  } else {
    for (index_t i = 0; i < v.extent(0); ++i) each_element(v[i], visit);
  }
}

// The outputs of a record, as it lists them in `outputs`, copied one after the other.
template <class Args>
std::vector<std::byte> copy_outputs(const Args& args) {
  std::vector<std::byte> bytes;
  args.outputs([&](const char*, const auto& output) {
    each_element(output, [&](const auto& value) {
      const auto* raw = reinterpret_cast<const std::byte*>(&value);
      bytes.insert(bytes.end(), raw, raw + sizeof(value));
    });
  });
  return bytes;
}

template <class Args>
void restore_outputs(const Args& args, const std::vector<std::byte>& bytes) {
  const std::byte* from = bytes.data();
  args.outputs([&](const char*, const auto& output) {
    each_element(output, [&](auto& value) {
      std::memcpy(&value, from, sizeof(value));
      from += sizeof(value);
    });
  });
}

// Compares the outputs in place (the reference's) with a copy (the backend's).
template <class Args>
void compare_outputs(const Args& args, const std::vector<std::byte>& found_bytes, verify_log& log) {
  const std::byte* found = found_bytes.data();
  args.outputs([&](const char* field, const auto& output) {
    double scale = 0;
    each_element(output, [&](const auto& value) {
      const double magnitude = std::fabs(static_cast<double>(value));
      if (std::isfinite(magnitude) && magnitude > scale) scale = magnitude;
    });
    index_t at = 0;
    bool reported = false;
    each_element(output, [&](const auto& value) {
      std::remove_cvref_t<decltype(value)> other;
      std::memcpy(&other, found, sizeof(other));
      found += sizeof(other);
      const double a = static_cast<double>(other), b = static_cast<double>(value);
      const bool same =
          (std::isnan(a) && std::isnan(b)) || a == b || std::fabs(a - b) <= log.tolerance * scale;
      if (!same && !reported) {
        std::ostringstream text;
        text << Args::name << ": " << field << " element " << at << " is " << a << ", the reference has "
             << b;
        log.differences.push_back(text.str());
        reported = true;
      }
      ++at;
    });
  });
}

}  // namespace detail

template <class Op, class B, class Reference>
  requires(!std::is_void_v<typename nearest<Op, B>::type> &&
           !std::is_void_v<typename nearest<Op, Reference>::type>)
struct implementation<Op, backend::verify<B, Reference>> {
  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    const auto before = detail::copy_outputs(args);  // outputs may be added to
    nearest<Op, B>::type::run(ctx, args);
    const auto result = detail::copy_outputs(args);
    detail::restore_outputs(args, before);
    nearest<Op, Reference>::type::run(ctx, args);
    verify_log* log = state_of<backend::verify<B, Reference>>(ctx.state).log;
    if (log != nullptr) detail::compare_outputs(args, result, *log);
    detail::restore_outputs(args, result);
  }

  // Both bodies carve from the same frame.
  template <class Ctx, class Args>
  static void scratch(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    carve<typename nearest<Op, B>::type>(ctx, arena, args);
    carve<typename nearest<Op, Reference>::type>(ctx, arena, args);
  }

 private:
  template <class Body, class Ctx, class Args>
  static void carve(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    if constexpr (requires { Body::scratch(ctx, arena, args); }) (void)Body::scratch(ctx, arena, args);
  }
};

}  // namespace dsv3::inline DSV3_ABI
