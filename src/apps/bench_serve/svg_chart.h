// A line chart as an SVG element, for reports that must open anywhere without a script. Colours are
// CSS variables of the page around it (--ink, --grid, --line-0, --line-1, ...).
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace deepflight {

struct ChartLine {
  std::string name;                               // in the legend, if there are several lines
  std::vector<std::pair<double, double>> points;  // x, y; x rising
  bool with_dots = false;
};

struct Chart {
  std::string title;
  std::string x_label;
  std::string y_label;
  std::vector<ChartLine> lines;
  double x_mark = 0;  // a dashed vertical line, such as a limit; 0: none
  double y_mark = 0;  // the same, horizontal
};

std::string svg_chart(const Chart& chart);

// Round values that cover [0, max]: 0, step, 2 step, ... up to the first one at or above max.
std::vector<double> chart_ticks(double max);

std::string escape_html(std::string_view text);

}  // namespace deepflight
