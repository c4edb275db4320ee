// SPDX-License-Identifier: MIT
#include "drawing.hpp"

#include <algorithm>
#include <cstdio>

namespace drawing {

using namespace dsv3::pipeline;

namespace {

constexpr const char* style = R"(<style>
.dsv3-schedule{--ink:#1c1c1a;--quiet:#6b6a66;--idle:#f0efec;--ground:#fcfcfb;--rim:#fcfcfb;--letters:#fff;
--f0:#2a78d6;--f1:#6b9fdc;--b0:#c9551a;--b1:#dd8a5c;--i0:#a87600;--i1:#c09a48;--w:#159a6b;
font:11px system-ui,-apple-system,"Segoe UI",sans-serif;background:var(--ground)}
@media (prefers-color-scheme:dark){.dsv3-schedule{--ink:#f2f1ee;--quiet:#a3a29c;--idle:#262624;
--ground:#1a1a19;--rim:#1a1a19}}
.dsv3-schedule text{fill:var(--quiet)}.dsv3-schedule .title{fill:var(--ink);font-weight:600;font-size:14px}
.dsv3-schedule .n{fill:var(--letters);text-anchor:middle}
.dsv3-schedule rect{stroke:var(--rim);stroke-width:.6}.dsv3-schedule .idle{fill:var(--idle);stroke:none}
.f0{fill:var(--f0)}.f1{fill:var(--f1)}.b0{fill:var(--b0)}.b1{fill:var(--b1)}.i0{fill:var(--i0)}
.i1{fill:var(--i1)}.w0,.w1{fill:var(--w)}
</style>
)";

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[320];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

constexpr double left = 52, top = 58, row = 26, box = 22;

struct canvas {
  double scale;  // of a unit of time
  std::string out;

  // A box from top to bottom of a row, or of the upper or lower half of it.
  void computing(char letter, const unit& u, const time_span& span, double y, double height) {
    const double x = left + span.begin * scale, width = (span.end - span.begin) * scale;
    out += formatted("<rect class=\"%c%d\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"/>", letter,
                     u.chunk % 2, x, y, width, height);
    const std::string number = std::to_string(u.micro_batch);
    const double letters = std::min(height - 1, 1.5 * width / static_cast<double>(number.size()));
    if (letters >= 4)
      out += formatted("<text class=\"n\" style=\"font-size:%.1fpx\" x=\"%.2f\" y=\"%.2f\">%s</text>",
                       std::min(letters, 10.0), x + width / 2,
                       y + height / 2 + std::min(letters, 10.0) * 0.36, number.c_str());
    out += "\n";
  }

  double legend(double x, const char* name, const char* words) {
    out += formatted("<rect class=\"%s\" x=\"%.1f\" y=\"33\" width=\"11\" height=\"11\"/>", name, x);
    out += formatted("<text x=\"%.1f\" y=\"43\">%s</text>\n", x + 15, words);
    return x + 27 + 6.0 * static_cast<double>(std::string(words).size());
  }
};

}  // namespace

std::string svg(const schedule& s, const simulation& run) {
  const double wide = std::max(900.0, 7.0 * static_cast<double>(s.ranks[0].size()));
  canvas c{.scale = run.makespan > 0 ? std::min(wide, 4000.0) / run.makespan : 1, .out = {}};
  const double width = left + run.makespan * c.scale + 12;
  const double height = top + row * s.places.ranks() + 8;
  const std::string title = s.name + ", " + std::to_string(s.places.ranks()) + " ranks, " +
                            std::to_string(s.micro_batches) + " micro-batches";
  c.out = formatted(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"dsv3-schedule\" viewBox=\"0 0 %.0f %.0f\" "
      "role=\"img\" aria-label=\"%s\">\n",
      width, height, title.c_str());
  c.out += style;
  c.out += formatted("<text class=\"title\" x=\"12\" y=\"22\">%s</text>\n", title.c_str());
  bool halves = false, whole = false;
  for (const std::vector<instruction>& list : s.ranks)
    for (const instruction& i : list) {
      halves = halves || i.what == act::weight_gradient;
      whole = whole || i.what == act::backward || i.what == act::overlapped;
    }
  const bool two = s.places.chunks() > 1;
  double x = c.legend(left, "f0", two ? "forward, chunk 0" : "forward");
  if (two) x = c.legend(x, "f1", "chunk 1");
  if (whole) x = c.legend(x, "b0", two ? "backward, chunk 0" : "backward");
  if (whole && two) x = c.legend(x, "b1", "chunk 1");
  if (halves) {
    x = c.legend(x, "i0", two ? "input gradient, chunk 0" : "input gradient");
    if (two) x = c.legend(x, "i1", "chunk 1");
    x = c.legend(x, "w0", "weight gradient");
  }
  c.legend(x, "idle", "idle");
  for (int rank = 0; rank < s.places.ranks(); ++rank) {
    const std::size_t r = static_cast<std::size_t>(rank);
    const double y = top + row * rank;
    c.out +=
        formatted("<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">rank %d</text>\n", left - 6, y + 15, rank);
    c.out += formatted("<rect class=\"idle\" x=\"%.1f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\"/>\n", left,
                       y, run.makespan * c.scale, box);
    for (std::size_t n = 0; n < s.ranks[r].size(); ++n) {
      const instruction& i = s.ranks[r][n];
      const time_span& span = run.spans[r][n];
      if (i.what == act::overlapped) {
        c.computing('f', i.of, span, y, box / 2);
        c.computing('b', i.back, span, y + box / 2, box / 2);
      } else if (!is_message(i)) {
        c.computing(i.what == act::forward          ? 'f'
                    : i.what == act::backward       ? 'b'
                    : i.what == act::input_gradient ? 'i'
                                                    : 'w',
                    i.of, span, y, box);
      }
    }
  }
  return c.out + "</svg>\n";
}

}  // namespace drawing
