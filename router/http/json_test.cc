#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "router/error_reason.h"
#include "router/http/json_reader.h"
#include "router/http/json_writer.h"
#include "router/json_depth.h"
#include "router/testing/test_random.h"
#include "text/utf8.h"

namespace outrider::router {
namespace {

std::string Written(absl::string_view text) {
  std::string out;
  AppendJsonString(text, &out);
  return out;
}

TEST(JsonWriter, WritesStringsThatReadBack) {
  EXPECT_EQ(Written("a\"b\\c\n\t\r\x01\x7f"), R"("a\"b\\c\n\t\r\u0001\u007f")");
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (uint64_t i = random() % 30; i > 0; --i) {
      text::AppendUtf8(static_cast<char32_t>(random() % 4 == 0 ? random() % 0x30000 : random() % 128), &text);
    }
    EXPECT_EQ(Json::parse(Written(text)).get<std::string>(), text);
  }
}

TEST(JsonWriter, WritesNumbersThatReadBack) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 2000; ++round) {
    const float number =
        static_cast<float>(std::ldexp(static_cast<double>(random()), static_cast<int>(random() % 120) - 120));
    std::string out;
    AppendJsonNumber(number, &out);
    EXPECT_EQ(Json::parse(out).get<float>(), number);
  }
  std::string out;
  AppendJsonNumber(-std::numeric_limits<float>::infinity(), &out);
  EXPECT_EQ(out, "-9999");
}

TEST(JsonReader, TakesObjectsAlone) {
  EXPECT_TRUE(ParseObject(R"({"a": [1, {"b": null}]})").ok());
  for (const char* body : {"", "{", "[1]", "1", "null", "{\"a\":1}x", "{\"a\":01}", "{'a':1}", "{\"a\":\"\x80\"}",
                           "{\"a\":\"\\ud800\"}", "{\"a\":1e999}", "{\"a\":NaN}", "\xef\xbb\xbf{"}) {
    const auto parsed = ParseObject(body);
    EXPECT_FALSE(parsed.ok()) << body;
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_NE(std::string(ParseObject("{\"a\" 1}").status().message()).find("at byte 6"), std::string::npos);
}

TEST(JsonReader, RefusesDeepNestingBeforeItParses) {
  const auto nested = [](int depth) {
    return "{\"a\":" + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
  };
  EXPECT_TRUE(ParseObject(nested(kMaxJsonDepth)).ok());
  EXPECT_FALSE(ParseObject(nested(kMaxJsonDepth + 1)).ok());
  EXPECT_FALSE(ParseObject(std::string(16 << 20, '[')).ok());
  EXPECT_FALSE(ParseObject(std::string(16 << 20, '{')).ok());
}

// Against a reference that parses, where that can be done.
TEST(JsonDepth, IsThatOfTheParsedText) {
  const auto reference = [](const auto& self, const Json& json) -> int {
    int deepest = 0;
    for (const Json& item : json) {
      if (item.is_structured()) deepest = std::max(deepest, self(self, item));
    }
    return json.is_structured() ? deepest + 1 : 0;
  };
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 500; ++round) {
    Json json = Json::array();
    for (int i = 0; i < 6; ++i) {
      Json next = random() % 2 == 0 ? Json::array({json, "[\"{\\"}) : Json{{"k[", json}, {"\"", 1}};
      if (random() % 3 != 0) json = next;
    }
    EXPECT_EQ(JsonDepth(json.dump()), reference(reference, json)) << json.dump();
  }
}

TEST(FieldReader, ReadsWhatIsThereAndTakesNullForAbsent) {
  const Json json = Json::parse(R"({"b": true, "n": 1.5, "i": 3.0, "s": "x", "l": ["a", "b"], "one": "c", "ids": [1, 2],
                                    "o": {}, "z": null})");
  FieldReader fields(json);
  EXPECT_EQ(fields.Bool("b"), true);
  EXPECT_EQ(fields.Number("n"), 1.5);
  EXPECT_EQ(fields.Integer("i"), 3);
  EXPECT_EQ(fields.String("s"), "x");
  EXPECT_EQ(fields.Strings("l"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(fields.Strings("one"), (std::vector<std::string>{"c"}));
  EXPECT_EQ(fields.Ids("ids"), (std::vector<int32_t>{1, 2}));
  EXPECT_NE(fields.Object("o"), nullptr);
  EXPECT_FALSE(fields.Integer("z").has_value());
  EXPECT_FALSE(fields.Bool("absent").has_value());
  EXPECT_TRUE(fields.ok());
  EXPECT_TRUE(fields.UnknownFields().empty());
}

TEST(FieldReader, NamesTheFieldThatIsWrong) {
  const auto check = [](const char* text, auto read, const char* code) {
    const Json json = Json::parse(text);
    FieldReader fields(json, "at.");
    read(fields);
    EXPECT_EQ(FieldOf(fields.status()), "at.f") << text;
    EXPECT_EQ(ReasonOf(fields.status()), code) << text;
    EXPECT_EQ(std::string(fields.status().message()).rfind("at.f ", 0), 0) << fields.status();
  };
  check(R"({"f": 1})", [](FieldReader& f) { f.Bool("f"); }, "invalid_type");
  check(R"({"f": "1"})", [](FieldReader& f) { f.Number("f"); }, "invalid_type");
  check(R"({"f": true})", [](FieldReader& f) { f.Integer("f"); }, "invalid_type");
  check(R"({"f": 1.5})", [](FieldReader& f) { f.Integer("f"); }, "invalid_value");
  check(R"({"f": 9223372036854775808})", [](FieldReader& f) { f.Integer("f"); }, "invalid_value");
  check(R"({"f": 1e300})", [](FieldReader& f) { f.Integer("f"); }, "invalid_value");
  check(R"({"f": 11})", [](FieldReader& f) { f.Integer("f", 0, 10); }, "invalid_value");
  check(R"({"f": [1]})", [](FieldReader& f) { f.Strings("f"); }, "invalid_type");
  check(R"({"f": {}})", [](FieldReader& f) { f.Strings("f"); }, "invalid_type");
  check(R"({"f": [1, -1]})", [](FieldReader& f) { f.Ids("f"); }, "invalid_value");
  check(R"({"f": [4294967296]})", [](FieldReader& f) { f.Ids("f"); }, "invalid_value");
  check(R"({"f": "x"})", [](FieldReader& f) { f.Ids("f"); }, "invalid_type");
  check(R"({"f": []})", [](FieldReader& f) { f.Object("f"); }, "invalid_type");
  check(R"({"f": 2})", [](FieldReader& f) { f.NotOffered("f", "", 1); }, "unsupported_parameter");
}

TEST(FieldReader, TakesValuesThatAskForNothingOfWhatIsNotOffered) {
  for (const char* text :
       {R"({})", R"({"f": null})", R"({"f": false})", R"({"f": []})", R"({"f": {}})", R"({"f": ""})", R"({"f": 1})"}) {
    const Json json = Json::parse(text);
    FieldReader fields(json);
    fields.NotOffered("f", "", 1);
    EXPECT_TRUE(fields.ok()) << text;
  }
}

TEST(FieldReader, KeepsTheFirstErrorAndListsWhatNobodyAskedFor) {
  const Json json = Json::parse(R"({"a": 1, "b": 2, "c": 3})");
  FieldReader fields(json);
  fields.Bool("a");
  fields.Bool("b");
  EXPECT_EQ(FieldOf(fields.status()), "a");
  EXPECT_EQ(fields.UnknownFields(), (std::vector<std::string>{"c"}));
}

}  // namespace
}  // namespace outrider::router
