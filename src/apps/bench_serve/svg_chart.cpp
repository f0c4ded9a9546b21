// Both axes begin at 0 and end at a round value.
#include "apps/bench_serve/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace deepflight {
namespace {

constexpr double kWidth = 560;
constexpr double kHeight = 300;
constexpr double kLeft = 62;
constexpr double kRight = 14;
constexpr double kTop = 34;
constexpr double kBottom = 46;

// From values to places on the page.
struct Axes {
  std::vector<double> x_ticks;
  std::vector<double> y_ticks;

  double x(double value) const {
    return kLeft + value / x_ticks.back() * (kWidth - kLeft - kRight);
  }
  double y(double value) const {
    return kHeight - kBottom - value / y_ticks.back() * (kHeight - kTop - kBottom);
  }
};

std::string line(double x1, double y1, double x2, double y2, const char* css_class) {
  return fmt::format(
      "<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", css_class,
      x1, y1, x2, y2);
}

std::string text(double x, double y, const char* anchor, std::string_view words,
                 const char* css_class = "label") {
  return fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
                     css_class, x, y, anchor, escape_html(words));
}

std::string axes_svg(const Chart& chart, const Axes& axes) {
  std::string svg;
  for (const double tick : axes.y_ticks) {
    svg += line(kLeft, axes.y(tick), kWidth - kRight, axes.y(tick), "grid");
    svg += text(kLeft - 6, axes.y(tick) + 4, "end", fmt::format("{:g}", tick));
  }
  for (const double tick : axes.x_ticks) {
    svg += line(axes.x(tick), kTop, axes.x(tick), kHeight - kBottom, "grid");
    svg += text(axes.x(tick), kHeight - kBottom + 16, "middle", fmt::format("{:g}", tick));
  }
  svg += text(kLeft, 18, "start", chart.title, "title");
  svg += text((kLeft + kWidth - kRight) / 2, kHeight - 8, "middle", chart.x_label);
  svg += fmt::format(
      "<text class=\"label\" transform=\"translate(14 {:.1f}) rotate(-90)\" "
      "text-anchor=\"middle\">{}</text>\n",
      (kTop + kHeight - kBottom) / 2, escape_html(chart.y_label));
  return svg;
}

std::string line_svg(const ChartLine& line, const Axes& axes, size_t number) {
  std::string points;
  std::string dots;
  for (const auto& [x, y] : line.points) {
    points += fmt::format("{:.1f},{:.1f} ", axes.x(x), axes.y(y));
    if (!line.with_dots) continue;
    dots += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"var(--line-{})\"><title>{:g}, "
        "{:g}</title></circle>\n",
        axes.x(x), axes.y(y), number, x, y);
  }
  return fmt::format("<polyline class=\"curve\" stroke=\"var(--line-{})\" points=\"{}\"/>\n{}",
                     number, points, dots);
}

}  // namespace

std::vector<double> chart_ticks(double max) {
  if (!(max > 0) || std::isinf(max)) max = 1;
  const double raw = max / 5;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 2.5, 5.0}) {
    if (factor * power >= raw * (1 - 1e-9)) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> ticks;
  const auto num_steps = static_cast<int>(std::ceil(max / step * (1 - 1e-9)));
  for (int i = 0; i <= num_steps; ++i) ticks.push_back(i * step);
  return ticks;
}

std::string escape_html(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string svg_chart(const Chart& chart) {
  double x_max = 0;
  double y_max = 0;
  for (const ChartLine& line : chart.lines) {
    for (const auto& [x, y] : line.points) {
      x_max = std::max(x_max, x);
      y_max = std::max(y_max, y);
    }
  }
  const Axes axes{chart_ticks(x_max), chart_ticks(y_max)};
  std::string svg = fmt::format(
      "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\" "
      "xmlns=\"http://www.w3.org/2000/svg\">\n",
      kWidth, kHeight, escape_html(chart.title));
  svg += axes_svg(chart, axes);
  if (chart.x_mark > 0 && chart.x_mark <= axes.x_ticks.back()) {
    svg += line(axes.x(chart.x_mark), kTop, axes.x(chart.x_mark), kHeight - kBottom, "mark");
  }
  if (chart.y_mark > 0 && chart.y_mark <= axes.y_ticks.back()) {
    svg += line(kLeft, axes.y(chart.y_mark), kWidth - kRight, axes.y(chart.y_mark), "mark");
  }
  for (size_t i = 0; i < chart.lines.size(); ++i) {
    svg += line_svg(chart.lines[i], axes, i);
    if (chart.lines.size() < 2) continue;
    const double x = kWidth - kRight - 110 * static_cast<double>(chart.lines.size() - i);
    svg += fmt::format(
        "<rect x=\"{:.0f}\" y=\"10\" width=\"12\" height=\"4\" "
        "fill=\"var(--line-{})\"/>\n",
        x, i);
    svg += text(x + 16, 18, "start", chart.lines[i].name);
  }
  return svg + "</svg>\n";
}

}  // namespace deepflight
