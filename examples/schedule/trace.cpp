// SPDX-License-Identifier: MIT
#include "drawing.hpp"

#include <dsv3/io/json.hpp>

namespace drawing {

using namespace dsv3::pipeline;
using dsv3::json;

namespace {

constexpr double microseconds = 1000;  // of a unit of time

std::string label(const instruction& i) {
  const auto numbered = [](const char* letter, const unit& u) {
    return letter + std::to_string(u.chunk) + " " + std::to_string(u.micro_batch);
  };
  switch (i.what) {
    case act::forward:
      return numbered("F", i.of);
    case act::backward:
      return numbered("B", i.of);
    case act::input_gradient:
      return numbered("I", i.of);
    case act::weight_gradient:
      return numbered("W", i.of);
    default:
      return numbered("F", i.of) + " | " + numbered("B", i.back);
  }
}

// The same for the sender and the receiver of a message, and for no other one.
std::string message_name(const schedule& s, int rank, const instruction& i) {
  const int from = i.what == act::send ? rank : i.peer, to = i.what == act::send ? i.peer : rank;
  const char* carried = i.carries == payload::activation ? "activation " : "gradient ";
  return carried + std::to_string(i.of.micro_batch) + " of route " +
         std::to_string(s.route_of(i.of.micro_batch)) + ", rank " + std::to_string(from) + " to " +
         std::to_string(to);
}

}  // namespace

std::string chrome_trace(const schedule& s, const simulation& run) {
  json events = json::array();
  events.push_back({{"ph", "M"}, {"name", "process_name"}, {"pid", 0}, {"args", {{"name", s.name}}}});
  for (int rank = 0; rank < s.places.ranks(); ++rank) {
    const std::size_t r = static_cast<std::size_t>(rank);
    events.push_back({{"ph", "M"},
                      {"name", "thread_name"},
                      {"pid", 0},
                      {"tid", rank},
                      {"args", {{"name", "rank " + std::to_string(rank)}}}});
    for (std::size_t n = 0; n < s.ranks[r].size(); ++n) {
      const instruction& i = s.ranks[r][n];
      const time_span& span = run.spans[r][n];
      json event = {{"pid", 0}, {"tid", rank}};
      if (is_message(i)) {
        const bool sends = i.what == act::send;
        event["ph"] = sends ? "s" : "f";
        event["cat"] = "message";
        event["name"] = event["id"] = message_name(s, rank, i);
        event["ts"] = microseconds * (sends ? span.begin : span.end);
        if (!sends) event["bp"] = "e";
      } else {
        event["ph"] = "X";
        event["name"] = label(i);
        event["ts"] = microseconds * span.begin;
        event["dur"] = microseconds * (span.end - span.begin);
        event["args"] = {{"what", to_string(i)}};
      }
      events.push_back(std::move(event));
    }
  }
  return json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump() + "\n";
}

}  // namespace drawing
