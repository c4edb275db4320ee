// SPDX-License-Identifier: MIT
// backend::annotate<B>: every operation is a named range in NVIDIA's profilers.
#pragma once

#include <dsv3/exec/decorator.hpp>

#include <nvtx3/nvToolsExt.h>

namespace dsv3::inline DSV3_ABI {

namespace cuda {

/// A range of the domain "dsv3" from here to the end of the scope, around what the host starts there: layers
/// may open one, operations do under annotate. Without a profiler it costs a few nanoseconds.
class named_range {
 public:
  explicit named_range(const char* name) {
    nvtxEventAttributes_t range = {};
    range.version = NVTX_VERSION;
    range.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    range.messageType = NVTX_MESSAGE_TYPE_ASCII;
    range.message.ascii = name;
    nvtxDomainRangePushEx(domain(), &range);
  }
  named_range(const named_range&) = delete;
  named_range& operator=(const named_range&) = delete;
  ~named_range() { nvtxDomainRangePop(domain()); }

 private:
  static nvtxDomainHandle_t domain() {
    static const nvtxDomainHandle_t only = nvtxDomainCreateA("dsv3");
    return only;
  }
};

}  // namespace cuda

namespace backend {
/// Runs the bodies of B, each in a range with the operation's name.
///
///     cuda_context<backend::annotate<backend::hopper>> ctx{.stream = stream, .state = {{{&gpu}}}};
template <class B>
struct annotate {};
}  // namespace backend

template <class B>
struct backend_state<backend::annotate<B>> {
  [[no_unique_address]] backend_state<B> inner = {};
};

template <class Op, class B>
  requires(!std::is_void_v<typename nearest<Op, B>::type>)
struct implementation<Op, backend::annotate<B>> : detail::decorated<Op, B> {
  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    const cuda::named_range range(Args::name);
    detail::decorated<Op, B>::body::run(ctx, args);
  }
};

}  // namespace dsv3::inline DSV3_ABI
