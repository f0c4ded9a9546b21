// The report as one HTML page: configuration, figures and charts, without scripts or other files.
#pragma once

#include <string>

#include "apps/bench_serve/load_report.h"

namespace deepflight {

std::string html_report(const LoadReport& report);

}  // namespace deepflight
