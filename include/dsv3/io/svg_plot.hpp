// SPDX-License-Identifier: MIT
// Figures drawn as SVG text: line plots and heat maps that stand alone, readable on light and dark ground.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// One curve. Values that are not finite (and, on a logarithmic axis, not positive) leave a gap.
struct plot_series {
  std::string name = {};
  std::vector<double> x = {}, y = {};  // of one length, x ascending
  bool marked = false;                 // few points worth seeing one by one
};

struct plot_options {
  std::string title = {}, x_label = {}, y_label = {};
  bool log_y = false;
  int width = 720, height = 300;  // units of the drawing; it scales to the room it gets
};

/// A matrix of numbers as colours, seen against `neutral`: blue below, grey at it, orange above.
struct heat_map_data {
  std::vector<double> x = {};       // of each column, ascending
  std::vector<double> values = {};  // [rows, columns], row by row
  index_t rows = 0;
  double neutral = 1, span = 1;  // the strongest colours stand for neutral - span and neutral + span
};

namespace detail {

inline std::string escaped_markup(std::string_view text) {
  std::string out;
  for (const char letter : text) {
    if (letter == '&')
      out += "&amp;";
    else if (letter == '<')
      out += "&lt;";
    else if (letter == '>')
      out += "&gt;";
    else if (letter == '"')
      out += "&quot;";
    else
      out += letter;
  }
  return out;
}

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

/// "1.2e-4", "35", "12k", "1.5M"; what axes carry.
inline std::string plot_number(double value) {
  const double size = std::abs(value);
  if (size >= 1e15 || (size > 0 && size < 1e-3)) {
    const int exponent = static_cast<int>(std::floor(std::log10(size)));
    return formatted("%.3ge%d", value / std::pow(10, exponent), exponent);
  }
  if (size >= 1e12) return formatted("%.4gT", value / 1e12);
  if (size >= 1e9) return formatted("%.4gG", value / 1e9);
  if (size >= 1e6) return formatted("%.4gM", value / 1e6);
  if (size >= 1e4) return formatted("%.4gk", value / 1e3);
  return formatted("%.4g", value);
}

/// One axis: data to drawing, and the round numbers to mark on it.
class plot_axis {
 public:
  plot_axis(double low, double high, double from, double to, bool logarithmic, int marks)
      : from_(from), to_(to), logarithmic_(logarithmic) {
    if (!(low <= high)) low = logarithmic ? 1 : 0, high = logarithmic ? 10 : 1;  // no data
    logarithmic ? mark_logarithmic(low, high) : mark_linear(low, high, marks);
  }

  bool shows(double value) const { return std::isfinite(value) && (!logarithmic_ || value > 0); }
  double operator()(double value) const {
    const double place =
        logarithmic_ ? std::log10(value / low_) / std::log10(high_ / low_) : (value - low_) / (high_ - low_);
    return from_ + (to_ - from_) * place;
  }
  double low() const { return low_; }
  double high() const { return high_; }
  const std::vector<double>& marks() const { return marks_; }

 private:
  void mark_linear(double low, double high, int marks) {
    const double size = std::max(std::abs(low), std::abs(high));
    if (high - low <= 1e-9 * size) {  // one value: room around it, or no step could be told from the next
      low -= size == 0 ? 1 : size / 10;
      high += size == 0 ? 1 : size / 10;
    }
    const double rough = (high - low) / marks, power = std::pow(10, std::floor(std::log10(rough)));
    const double digit = rough / power;
    const double step = power * (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10);
    low_ = low, high_ = high;
    for (double at = std::ceil(low / step); at * step <= high + step * 1e-9; ++at)
      marks_.push_back(at * step + 0.0);  // no -0
  }
  void mark_logarithmic(double low, double high) {
    if (high < low * 10) low /= 1.5, high *= 1.5;
    low_ = low, high_ = high;
    const bool within = high / low < 200;
    const double step = std::max(1.0, std::ceil(std::log10(high / low) / 6));
    for (double decade = std::floor(std::log10(low)); decade <= std::log10(high); decade += within ? 1 : step)
      for (const double digit : {1.0, 2.0, 5.0}) {
        const double mark = digit * std::pow(10, decade);
        if (mark >= low && mark <= high && (digit == 1 || within)) marks_.push_back(mark);
      }
  }

  double from_, to_, low_ = 0, high_ = 1;
  bool logarithmic_;
  std::vector<double> marks_;
};

/// Every colour of the figures, in the light and in the dark; a page may replace them by the same variables.
inline constexpr std::string_view plot_style = R"(<style>
.dsv3-plot{--ink:#1c1c1a;--quiet:#6b6a66;--grid:#e4e3df;--axis:#b9b8b3;--ground:#fcfcfb;
--s0:#2a78d6;--s1:#d9601f;--s2:#159a6b;--s3:#b98200;--s4:#5b49b8;--s5:#c9487f;
--h0:#184f95;--h1:#2a78d6;--h2:#6da7ec;--h3:#b7d3f6;--h4:#efeeeb;
--h5:#f6cdb6;--h6:#ee9a6b;--h7:#d9601f;--h8:#97400f;
font:12px system-ui,-apple-system,"Segoe UI",sans-serif;background:var(--ground)}
@media (prefers-color-scheme:dark){.dsv3-plot{--ink:#f2f1ee;--quiet:#a3a29c;--grid:#2e2e2b;--axis:#55544f;
--ground:#1a1a19;--s0:#4c93e8;--s1:#e07038;--s2:#25a97c;--s3:#c98f14;--s4:#9b8fec;--s5:#dd6a9a;
--h0:#9cc6f9;--h1:#5b9fee;--h2:#2f6fbf;--h3:#27456b;--h4:#34342f;
--h5:#66402c;--h6:#a9562a;--h7:#e07038;--h8:#f7b28d}}
.dsv3-plot text{fill:var(--quiet)}.dsv3-plot .title{fill:var(--ink);font-weight:600;font-size:14px}
.dsv3-plot .grid{stroke:var(--grid)}.dsv3-plot .axis{stroke:var(--axis)}
.dsv3-plot .line{fill:none;stroke-width:1.75;stroke-linejoin:round;stroke-linecap:round}
</style>)";

inline constexpr std::size_t plot_colours = 6;
inline constexpr int plot_left = 58, plot_right = 16, plot_bottom = 40;

/// The drawing's frame: size, colours, title, and what the reading script of the report needs to know.
inline std::string plot_begin(const plot_options& options, std::string_view facts) {
  return formatted("<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"dsv3-plot\" viewBox=\"0 0 %d %d\" ",
                   options.width, options.height) +
         "role=\"img\" aria-label=\"" + escaped_markup(options.title) + "\" " + std::string(facts) + ">\n" +
         std::string(plot_style) + "\n<text class=\"title\" x=\"12\" y=\"22\">" +
         escaped_markup(options.title) + "</text>\n";
}

/// Marks and label of the horizontal axis at height `y`.
inline std::string plot_x_axis(const plot_axis& x, double y, const plot_options& options) {
  std::string out = formatted("<line class=\"axis\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
                              plot_left, options.width - plot_right, y, y);
  for (const double mark : x.marks())
    out += formatted("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", x(mark), y + 16,
                     plot_number(mark).c_str());
  return out +
         formatted("<text x=\"%d\" y=\"%d\" text-anchor=\"end\">", options.width - plot_right,
                   options.height - 8) +
         escaped_markup(options.x_label) + "</text>\n";
}

/// A curve as a path of at most about `limit` points: of each stretch of x the first extremes survive.
inline std::string plot_path(const plot_series& series, const plot_axis& x, const plot_axis& y,
                             std::size_t limit) {
  const std::size_t count = series.x.size(), stretch = std::max<std::size_t>(1, ceil_div(2 * count, limit));
  std::string path;
  bool gap = true;
  const auto visit = [&](std::size_t i) {
    path += formatted("%c%.2f %.2f", gap ? 'M' : 'L', x(series.x[i]), y(series.y[i]));
    gap = false;
  };
  for (std::size_t begin = 0; begin < count; begin += stretch) {
    std::size_t least = count, most = count;
    for (std::size_t i = begin; i < std::min(begin + stretch, count); ++i) {
      if (!y.shows(series.y[i])) continue;
      if (least == count || series.y[i] < series.y[least]) least = i;
      if (most == count || series.y[i] > series.y[most]) most = i;
    }
    if (least == count) {
      gap = true;
      continue;
    }
    visit(std::min(least, most));
    if (least != most) visit(std::max(least, most));
  }
  return path;
}

}  // namespace detail

/// The curves in one frame. More curves than there are colours repeat them dashed.
inline std::string line_plot(const plot_options& options, std::span<const plot_series> series) {
  using namespace detail;
  constexpr double none = std::numeric_limits<double>::infinity();
  double x_low = none, x_high = -none, y_low = none, y_high = -none;
  for (const plot_series& curve : series) {
    if (curve.x.size() != curve.y.size())
      raise("line_plot: " + curve.name + " has " + std::to_string(curve.x.size()) + " x and " +
            std::to_string(curve.y.size()) + " y");
    for (std::size_t i = 0; i < curve.x.size(); ++i) {
      if (!std::isfinite(curve.y[i]) || (options.log_y && curve.y[i] <= 0)) continue;
      x_low = std::min(x_low, curve.x[i]), x_high = std::max(x_high, curve.x[i]);
      y_low = std::min(y_low, curve.y[i]), y_high = std::max(y_high, curve.y[i]);
    }
  }
  if (!options.log_y && y_low < y_high) {
    const double room = (y_high - y_low) * 0.05;
    // An axis that comes near zero begins there.
    y_low = y_low >= 0 && y_low < 0.25 * y_high ? 0 : y_low - room;
    y_high += room;
  }
  const double top = series.size() > 1 ? 60 : 42, bottom = options.height - plot_bottom;
  const plot_axis x{x_low, x_high, plot_left, double(options.width - plot_right), false, 8};
  const plot_axis y{y_low, y_high, bottom, top, options.log_y, 5};

  std::string out = plot_begin(
      options,
      formatted(
          "data-kind=\"line\" data-log=\"%d\" data-x=\"%.9g %.9g %.9g %.9g\" data-y=\"%.9g %.9g %.9g %.9g\"",
          options.log_y, x.low(), x.high(), x(x.low()), x(x.high()), y.low(), y.high(), y(y.low()),
          y(y.high())));
  double legend = 12;
  for (std::size_t i = 0; series.size() > 1 && i < series.size(); ++i) {
    out += formatted(
        "<line class=\"line\" style=\"stroke:var(--s%zu)\" x1=\"%.0f\" x2=\"%.0f\" y1=\"39\" y2=\"39\"%s/>",
        i % plot_colours, legend, legend + 16, i >= plot_colours ? " stroke-dasharray=\"4 4\"" : "");
    out +=
        formatted("<text x=\"%.0f\" y=\"43\">", legend + 22) + escaped_markup(series[i].name) + "</text>\n";
    legend += 22 + 6.6 * static_cast<double>(series[i].name.size()) + 18;
  }
  out += formatted("<text x=\"%d\" y=\"22\" text-anchor=\"end\">", options.width - plot_right) +
         escaped_markup(options.y_label) + "</text>\n";
  for (const double mark : y.marks())
    out += formatted("<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", plot_left,
                     options.width - plot_right, y(mark), y(mark)) +
           formatted("<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", plot_left - 8, y(mark) + 4,
                     plot_number(mark).c_str());
  out += plot_x_axis(x, bottom, options);
  for (std::size_t i = 0; i < series.size(); ++i) {
    const std::string colour = formatted("var(--s%zu)", i % plot_colours);
    out += "<path class=\"line\" style=\"stroke:" + colour + "\"" +
           (i >= plot_colours ? " stroke-dasharray=\"4 4\"" : "") + " data-name=\"" +
           escaped_markup(series[i].name) + "\" d=\"" +
           plot_path(series[i], x, y, static_cast<std::size_t>(2 * options.width)) + "\"/>\n";
    for (std::size_t k = 0; series[i].marked && k < series[i].x.size(); ++k)
      if (y.shows(series[i].y[k]))
        out +=
            formatted("<circle cx=\"%.2f\" cy=\"%.2f\" r=\"3.5\" style=\"fill:%s;stroke:var(--ground)\"/>\n",
                      x(series[i].x[k]), y(series[i].y[k]), colour.c_str());
  }
  return out + "</svg>\n";
}

/// Row 0 at the top. Cells of one colour are one path, so that a large map stays a small text.
inline std::string heat_map(const plot_options& options, const heat_map_data& map) {
  using namespace detail;
  const auto columns = static_cast<index_t>(map.x.size());
  if (map.rows * columns != static_cast<index_t>(map.values.size()))
    raise("heat_map: " + std::to_string(map.values.size()) + " values, expected " + std::to_string(map.rows) +
          " rows of " + std::to_string(columns));
  constexpr int colours = 9;
  const double top = 58, bottom = options.height - plot_bottom, right = options.width - plot_right;
  const double wide = columns > 0 ? (right - plot_left) / static_cast<double>(columns) : 0;
  const double high = map.rows > 0 ? (bottom - top) / static_cast<double>(map.rows) : 0;
  std::string paths[colours], cells;
  for (index_t row = 0; row < map.rows; ++row) {
    for (index_t column = 0; column < columns; ++column) {
      const double value = map.values[static_cast<std::size_t>(row * columns + column)];
      cells.append(cells.empty() ? "" : " ").append(formatted("%.3g", value));
      if (!std::isfinite(value)) continue;
      const double share = std::clamp((value - map.neutral) / map.span, -1.0, 1.0);
      const auto colour = static_cast<std::size_t>(std::lround((share + 1) / 2 * (colours - 1)));
      paths[colour] +=
          formatted("M%.2f %.2fh%.2fv%.2fh-%.2fz", plot_left + wide * static_cast<double>(column),
                    top + high * static_cast<double>(row), wide, high, wide);
    }
  }
  const plot_axis rows{-0.5, static_cast<double>(map.rows) - 0.5, top, bottom, false, 4};
  // A column stands for its x: the axis is marked at columns, at most eight of them.
  std::string out =
      plot_begin(options, formatted("data-kind=\"heat\" data-rows=\"%lld\" data-box=\"%d %.1f %.1f %.1f\"",
                                    static_cast<long long>(map.rows), plot_left, top, right, bottom));
  for (std::size_t colour = 0; colour < colours; ++colour)
    out += formatted("<rect x=\"%.1f\" y=\"32\" width=\"14\" height=\"9\" style=\"fill:var(--h%zu)\"/>",
                     right - 14.0 * static_cast<double>(colours - colour), colour) +
           (paths[colour].empty()
                ? ""
                : formatted("<path style=\"fill:var(--h%zu)\" d=\"", colour) + paths[colour] + "\"/>\n");
  const std::string scale[] = {plot_number(map.neutral - map.span), plot_number(map.neutral),
                               plot_number(map.neutral + map.span) + "+"};
  for (int i = 0; i < 3; ++i)
    out += formatted("<text x=\"%.1f\" y=\"53\" text-anchor=\"middle\">%s</text>", right - 119 + 56.0 * i,
                     scale[i].c_str());
  out += "<text x=\"12\" y=\"43\">" + escaped_markup(options.y_label) + "</text>\n";
  for (const double mark : rows.marks())
    if (mark == std::floor(mark) && mark < static_cast<double>(map.rows))
      out += formatted("<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.0f</text>\n", plot_left - 8,
                       rows(mark) + 4, mark);
  const index_t every = std::max<index_t>(1, ceil_div(columns, 8));
  for (index_t column = 0; column < columns; column += every)
    out += formatted("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n",
                     plot_left + wide * (static_cast<double>(column) + 0.5), bottom + 16,
                     plot_number(map.x[static_cast<std::size_t>(column)]).c_str());
  std::string steps;
  for (const double x : map.x) steps.append(steps.empty() ? "" : " ").append(formatted("%.9g", x));
  return out + formatted("<text x=\"%.1f\" y=\"%d\" text-anchor=\"end\">", right, options.height - 8) +
         escaped_markup(options.x_label) + "</text>\n<desc data-x=\"" + steps + "\" data-cells=\"" + cells +
         "\"></desc>\n</svg>\n";
}

}  // namespace dsv3::inline DSV3_ABI
