// Bounds of numbers against arithmetic, for every number of a few digits.
#include "grammar/number_range.h"

#include <gtest/gtest.h>

#include "grammar/schema_testing.h"

namespace deepflight {
namespace {

TEST(NumberRange, IntegersOfThreeDigits) {
  const std::pair<int, int> ranges[] = {{0, 0},    {3, 17},   {-5, 5},   {-120, -7}, {-1, 0},
                                        {99, 100}, {10, 999}, {-999, 1}, {7, 7},     {123, 456}};
  for (const auto& [low, high] : ranges) {
    for (const bool exclusive : {false, true}) {
      const int least = exclusive ? low - 1 : low;
      const int most = exclusive ? high + 1 : high;
      SchemaLanguage language(fmt::format(R"({{"type":"integer","{}":{},"{}":{}}})",
                                          exclusive ? "exclusiveMinimum" : "minimum", least,
                                          exclusive ? "exclusiveMaximum" : "maximum", most));
      for (int i = -1100; i <= 1100; ++i) {
        EXPECT_EQ(language.has(std::to_string(i)), low <= i && i <= high)
            << i << " in [" << low << ", " << high << "]";
      }
      EXPECT_FALSE(language.has("-0"));
      EXPECT_FALSE(language.has("007"));
    }
  }
}

TEST(NumberRange, FractionsOfTwoDigits) {
  struct Range {
    double low, high;
    bool exclusive;
  };
  const Range ranges[] = {{0, 1, false},       {0, 1, true},       {-0.5, 0.25, false},
                          {-2.75, -0.1, true}, {1.05, 1.5, false}, {9.9, 10.1, true}};
  for (const auto& [low, high, exclusive] : ranges) {
    SchemaLanguage language(fmt::format(R"({{"type":"number","{}":{},"{}":{}}})",
                                        exclusive ? "exclusiveMinimum" : "minimum", low,
                                        exclusive ? "exclusiveMaximum" : "maximum", high));
    for (int i = -1200; i <= 1200; ++i) {
      const std::string text =
          fmt::format("{}{}.{:02}", i < 0 ? "-" : "", std::abs(i) / 100, std::abs(i) % 100);
      const double value = std::stod(text);
      const bool in = exclusive ? low < value && value < high : low <= value && value <= high;
      EXPECT_EQ(language.has(text), in) << text << " in " << low << " " << high;
    }
  }
}

TEST(NumberRange, OneSided) {
  SchemaLanguage least(R"({"type":"integer","minimum":-3})");
  for (const char* in : {"-3", "0", "5", "123456789012345"}) EXPECT_TRUE(least.has(in)) << in;
  for (const char* out : {"-4", "-30", "1234567890123456"}) EXPECT_FALSE(least.has(out)) << out;
  SchemaLanguage most(R"({"type":"number","exclusiveMaximum":-1e-3})");
  for (const char* in : {"-0.0011", "-1", "-99999.5"}) EXPECT_TRUE(most.has(in)) << in;
  for (const char* out : {"-0.001", "0", "-0.0009", "1"}) EXPECT_FALSE(most.has(out)) << out;
}

TEST(NumberRange, Multiples) {
  SchemaLanguage language(R"({"type":"integer","multipleOf":7,"minimum":-50,"maximum":200})");
  for (int i = -300; i <= 300; ++i) {
    EXPECT_EQ(language.has(std::to_string(i)), i % 7 == 0 && i >= -50 && i <= 200) << i;
  }
}

TEST(NumberRange, HugeBoundsAreRefused) {
  EXPECT_EQ(compile_schema(R"({"type":"number","minimum":1e40})").error().message,
            "schema: a bound of more than 15 digits is not supported");
  EXPECT_EQ(compile_schema(R"({"type":"number","minimum":0.12345678901234567})").error().code,
            ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace deepflight
