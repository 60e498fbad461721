#include "text/chat_template.h"

#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "text/testing/random_text.h"
#include "text/testing/seed.h"
#include "text/testing/smollm2_tokenizer.h"

namespace outrider::text {
namespace {

using Json = nlohmann::ordered_json;

absl::StatusOr<std::string> Render(absl::string_view source, const ChatTemplateInput& input = {},
                                   const ChatTemplateLimits& limits = {}) {
  absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return parsed->Render(input, limits);
}

std::string ErrorOf(absl::string_view source, const ChatTemplateLimits& limits = {}) {
  const auto result = Render(source, {}, limits);
  EXPECT_FALSE(result.ok()) << source;
  return std::string(result.status().message());
}

// The day the cases were written for: Sunday, 2025-03-09 14:05:07.
std::tm CaseTime() {
  std::tm now = {};
  now.tm_year = 125;
  now.tm_mon = 2;
  now.tm_mday = 9;
  now.tm_hour = 14;
  now.tm_min = 5;
  now.tm_sec = 7;
  now.tm_yday = 67;
  return now;
}

// Expected texts are Jinja's own: testdata/make_jinja_cases.py.
TEST(ChatTemplate, GivesWhatJinjaGives) {
  const Json cases = Json::parse(ReadTestdata("jinja_cases.json"));
  ASSERT_GT(cases.size(), 400u);
  for (const Json& test_case : cases) {
    const std::string source = test_case.contains("template_file")
                                   ? ReadTestdata(test_case["template_file"].get<std::string>())
                                   : test_case["template"].get<std::string>();
    ChatTemplateInput input;
    input.extra = test_case["context"];
    input.now = CaseTime();
    const auto result = Render(source, input);
    const std::string about = absl::StrCat(test_case["name"].get<std::string>(), ": ", source.substr(0, 300));
    if (test_case.contains("error")) {
      EXPECT_FALSE(result.ok()) << about << "\ngave " << *result << "\nJinja says " << test_case["error"];
      EXPECT_TRUE(absl::StartsWith(result.status().message(), "chat template line ")) << result.status();
    } else {
      ASSERT_TRUE(result.ok()) << about << "\n" << result.status();
      EXPECT_EQ(*result, test_case["expected"].get<std::string>()) << about;
    }
  }
}

TEST(ChatTemplate, MakesThePromptsOfTheReferenceRun) {
  const auto tokenizer = MakeSmolLm2Tokenizer();
  const auto parsed = ChatTemplate::Parse(tokenizer->definition().chat_template);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  for (const Json& prompt : Json::parse(ReadTestdata("smollm2_prompts.json"))) {
    ChatTemplateInput input;
    input.messages = Json::array({{{"role", "user"}, {"content", prompt["prompt"]}}});
    const auto text = parsed->Render(input);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(tokenizer->Encode(*text, {.parse_special = true}),
              prompt["prompt_token_ids"].get<std::vector<TokenId>>());
  }
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_EQ(ErrorOf("a\nb\n{{ 1 + }}"), "chat template line 3: expected an expression, found '}}'");
  EXPECT_EQ(ErrorOf("a\n\n{{ x.y }}\n"), "chat template line 3: 'x' is undefined, so it has no attribute 'y'");
  EXPECT_EQ(ErrorOf("{% if true %}\n{{ raise_exception('no system role') }}\n{% endif %}"),
            "chat template line 2: the template raised: no system role");
  EXPECT_EQ(ErrorOf("{#\n#}\n{% for i in 5 %}{% endfor %}"), "chat template line 3: int can not be iterated");
  EXPECT_EQ(ErrorOf("\n{% if true %}"), "chat template line 2: the template ends before {% endif %}");
}

TEST(ChatTemplate, StrftimeNowIsThereOnlyWithATime) {
  ChatTemplateInput input;
  EXPECT_EQ(*Render("{{ strftime_now is defined }}", input), "False");
  input.now = CaseTime();
  EXPECT_EQ(*Render("{{ strftime_now('%d %b %Y') }}", input), "09 Mar 2025");
  EXPECT_FALSE(Render("{{ strftime_now('%Q') }}", input).ok());
  EXPECT_FALSE(Render("{{ strftime_now('%') }}", input).ok());
  EXPECT_FALSE(Render("{{ strftime_now('%c' * 200) }}", input).ok());
}

TEST(ChatTemplate, ExtraVariablesWinAndToolsAreNoneWithoutThem) {
  ChatTemplateInput input;
  input.bos_token = "<s>";
  input.extra = {{"bos_token", "<x>"}, {"enable_thinking", false}};
  EXPECT_EQ(*Render("{{ bos_token }}{{ enable_thinking }}{{ tools }}{{ eos_token }}", input), "<x>FalseNone");
  input.extra = Json::array();
  EXPECT_FALSE(Render("x", input).ok());
}

TEST(ChatTemplate, ObjectsKeepTheOrderOfTheirKeys) {
  ChatTemplateInput input;
  input.extra = Json::parse(R"({"t": {"z": 1, "a": [true, null, 2.5], "m": "x"}})");
  EXPECT_EQ(*Render("{{ t | tojson }}", input), R"({"z": 1, "a": [true, null, 2.5], "m": "x"})");
}

TEST(ChatTemplate, NumbersKeepTheirKind) {
  ChatTemplateInput input;
  input.extra = Json::parse(R"({"a": 9223372036854775807, "b": 18446744073709551615, "c": 1.0, "d": -3})");
  EXPECT_EQ(*Render("{{ a }} {{ b }} {{ c }} {{ d }}", input), "9223372036854775807 1.8446744073709552e+19 1.0 -3");
}

TEST(ChatTemplate, EveryLimitIsNamed) {
  ChatTemplateLimits limits;
  limits.max_output_bytes = 1000;
  EXPECT_EQ(ErrorOf("{% for i in range(200) %}0123456789{% endfor %}", limits),
            "chat template line 1: more than 1000 bytes of output");
  limits = {};
  limits.max_steps = 1000;
  EXPECT_EQ(ErrorOf("{% for i in range(2000) %}{% endfor %}", limits), "chat template line 1: more than 1000 steps");
  limits = {};
  limits.max_value_bytes = 100000;
  EXPECT_EQ(ErrorOf("{{ 'x' * 200000 }}", limits), "chat template line 1: more than 100000 bytes of values");
  limits = {};
  limits.max_depth = 10;
  EXPECT_EQ(ErrorOf("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", limits),
            "chat template line 1: more than 10 levels of macro calls");
}

TEST(ChatTemplate, ALimitIsResourceExhaustedAndAWrongTemplateInvalidArgument) {
  EXPECT_EQ(Render("{{ range(100001) }}").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Render("{{ 1 / 0 }}").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Render("{{").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ChatTemplate::Parse(std::string((1 << 20) + 1, 'x')).status().code(), absl::StatusCode::kInvalidArgument);
}

// Each of these would take the process down, or all its time, without a bound.
TEST(ChatTemplate, HostileTemplatesEnd) {
  const auto repeat = [](absl::string_view unit, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out.append(unit.data(), unit.size());
    return out;
  };
  const std::vector<std::string> sources = {
      // Deep nesting in the source.
      "{{ " + repeat("(", 100000) + "1" + repeat(")", 100000) + " }}",
      "{{ " + repeat("[", 100000) + repeat("]", 100000) + " }}",
      "{{ " + repeat("not ", 100000) + "1 }}",
      "{{ " + repeat("-", 100000) + "1 }}",
      "{{ " + repeat("1+", 100000) + "1 }}",
      "{{ a" + repeat(".a", 100000) + " }}",
      "{{ a" + repeat("|trim", 100000) + " }}",
      "{{ a" + repeat("[0]", 100000) + " }}",
      "{{ 1" + repeat(" if 1 else 1", 50000) + " }}",
      "{{ 1" + repeat(" is defined", 50000) + " }}",
      repeat("{% if 1 %}", 20000) + repeat("{% endif %}", 20000),
      repeat("{% for i in [1] %}", 20000),
      "{% for " + repeat("(", 100000) + "a %}",
      // Growth.
      "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
      "{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(s=1) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}",
      "{% set ns = namespace(s=1) %}{% for i in range(50) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
      "{% set ns = namespace(s=1) %}{% for i in range(50) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}",
      "{% set a = namespace(s=1) %}{% set b = namespace(s=1) %}{% for i in range(50) %}{% set a.s = [a.s, a.s] %}"
      "{% set b.s = [b.s, b.s] %}{% endfor %}{{ a.s == b.s }}{{ a.s < b.s }}",
      "{{ 'x' * 9223372036854775807 }}",
      "{{ [1] * 9223372036854775807 }}",
      "{{ 'a' | center(999999999999) }}",
      "{{ ('a' * 60000000).split('a') }}",
      "{{ ('a' * 60000000) | list }}",
      "{{ ('a ' * 30000000).split() }}",
      "{{ ('a' * 60000000).replace('a', 'aaaaaaaaaaaaaaaaaaaa') }}",
      "{{ ('a' * 60000000).replace('', 'bbbb') }}",
      "{{ ('%s' * 100000) % 1 }}",
      "{{ '%999d%999d' % (1, 2) }}",
      "{{ '%9999999d' % 1 }}",
      "{{ '%.999f' % 1e308 }}",
      "{{ 2 ** 9223372036854775807 }}",
      "{{ (-2) ** 63 }}",
      "{{ -9223372036854775807 - 2 }}",
      "{{ (-9223372036854775807 - 1) // -1 }}",
      "{{ (-9223372036854775807 - 1) % -1 }}",
      "{{ -(-9223372036854775807 - 1) }}",
      "{{ (-9223372036854775807 - 1) | abs }}",
      "{{ range(0, 9223372036854775807, 9223372036854775806) | list }}",
      "{{ range(9223372036854775807) }}",
      "{{ 'abc'[9223372036854775807:-9223372036854775807:9223372036854775807] }}",
      "{{ 'abc'[-9223372036854775807] }}",
      "{{ 1e308 * 10 }} {{ (1e308 * 10) | int }} {{ (1e308 * 10) | round }}",
      // Recursion and cycles.
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(n) %}{% call g(n) %}{{ f(n) }}{% endcall %}{% endmacro %}{% macro g(n) %}{{ caller() }}{% endmacro %}"
      "{{ f(1) }}",
      "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
      "{% set ns = namespace() %}{% set ns.self = ns %}{% set ns.l = [ns, [ns]] %}{{ ns }}{{ ns.l }}{{ ns.l == ns.l }}",
      "{% set ns = namespace(n=0) %}{% for i in range(100000) %}{% set ns.n = namespace(p=ns.n) %}{% endfor %}",
      "{% set ns = namespace() %}{% for i in [1] %}{% macro m() %}x{% endmacro %}{% set ns.m = m %}{% set ns.l = loop "
      "%}"
      "{% endfor %}{{ ns.l.index }}{{ ns.m() }}",
      "{{ [[1]] | map('map', 'map', 'map', 'map') | list }}",
      // Time.
      "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
      "{% for i in range(100000) %}{{ ('a' * 1000000).count('b') }}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% if 'b' in s %}{% endif %}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ s[999999] }}{% endfor %}",
      "{% set s = 'ab' * 20000 %}{{ s | list | unique | list }}",
      "{{ range(100000) | list | unique | list | length }}",
      "{{ range(100000) | map('string') | sort | list | length }}",
  };
  for (const std::string& source : sources) {
    const std::clock_t begin = std::clock();
    const auto result = Render(source);
    EXPECT_TRUE(result.ok() || absl::StartsWith(result.status().message(), "chat template line "));
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    // About a second at worst; sanitizers are given room.
    EXPECT_LT(seconds, 20) << source.substr(0, 200);
  }
}

// Text that is nearly a template: pieces of the language, cut and mixed.
std::string RandomTemplate(std::mt19937_64& random) {
  static const char* const kPieces[] = {"{{",
                                        "}}",
                                        "{%",
                                        "%}",
                                        "{#",
                                        "#}",
                                        "{%-",
                                        "-%}",
                                        "{{-",
                                        "-}}",
                                        " ",
                                        " ",
                                        " ",
                                        "\n",
                                        "if",
                                        "elif",
                                        "else",
                                        "endif",
                                        "for",
                                        "in",
                                        "endfor",
                                        "set",
                                        "endset",
                                        "macro",
                                        "endmacro",
                                        "call",
                                        "endcall",
                                        "filter",
                                        "endfilter",
                                        "with",
                                        "endwith",
                                        "raw",
                                        "endraw",
                                        "generation",
                                        "endgeneration",
                                        "break",
                                        "continue",
                                        "recursive",
                                        "not",
                                        "and",
                                        "or",
                                        "is",
                                        "x",
                                        "y",
                                        "messages",
                                        "message",
                                        "loop",
                                        "loop.index",
                                        "namespace",
                                        "ns",
                                        "range",
                                        "(",
                                        ")",
                                        "[",
                                        "]",
                                        "{",
                                        "}",
                                        ",",
                                        ":",
                                        ".",
                                        "|",
                                        "=",
                                        "==",
                                        "!=",
                                        "<",
                                        "<=",
                                        "+",
                                        "-",
                                        "*",
                                        "/",
                                        "//",
                                        "%",
                                        "**",
                                        "~",
                                        "'a'",
                                        "\"b\"",
                                        "'",
                                        "\"",
                                        "\\",
                                        "1",
                                        "2",
                                        "0",
                                        "-1",
                                        "1.5",
                                        "true",
                                        "none",
                                        "trim",
                                        "tojson",
                                        "length",
                                        "upper",
                                        "join",
                                        "default",
                                        "map",
                                        "select",
                                        "selectattr",
                                        "sort",
                                        "first",
                                        "last",
                                        "reverse",
                                        "string",
                                        "int",
                                        "defined",
                                        "mapping",
                                        "items",
                                        "split",
                                        "strip",
                                        "startswith",
                                        "replace",
                                        "format",
                                        "content",
                                        "role",
                                        "caller",
                                        "varargs",
                                        "kwargs",
                                        "cycler",
                                        "joiner",
                                        "dict",
                                        "\xC3\xA9",
                                        "\xFF",
                                        "{{ x }}",
                                        "{% if x %}",
                                        "{% endif %}",
                                        "{% for m in messages %}",
                                        "{% endfor %}",
                                        "{% set x = 1 %}",
                                        "{{ messages[0]['role'] }}",
                                        "{% macro f(a) %}",
                                        "{% endmacro %}",
                                        "{{ f(1) }}"};
  std::string out;
  for (size_t n = 1 + random() % 40; n > 0; --n) {
    out += kPieces[random() % std::size(kPieces)];
    if (random() % 2 == 0) out += " ";
  }
  return out;
}

TEST(ChatTemplate, RandomTemplatesNeitherCrashNorHang) {
  std::mt19937_64 random(TestSeed(10));
  ChatTemplateInput input;
  input.messages =
      Json::parse(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": ["b", {"c": 1}]}])");
  ChatTemplateLimits limits;
  limits.max_steps = 20000;
  limits.max_value_bytes = 1 << 20;
  limits.max_output_bytes = 1 << 16;
  int num_rendered = 0;
  for (int i = 0; i < 20000; ++i) {
    const auto parsed = ChatTemplate::Parse(RandomTemplate(random));
    if (!parsed.ok()) continue;
    num_rendered += parsed->Render(input, limits).ok();
  }
  EXPECT_GT(num_rendered, 10);
}

TEST(ChatTemplate, TruncatedAndChangedTemplatesOfModelsNeitherCrashNorHang) {
  std::mt19937_64 random(TestSeed(11));
  ChatTemplateInput input;
  input.messages = Json::parse(
      R"([{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
          {"role": "assistant", "content": "b"}])");
  ChatTemplateLimits limits;
  limits.max_steps = 20000;
  limits.max_value_bytes = 1 << 20;
  for (const char* name : {"smollm2", "llama3", "qwen3", "gemma3"}) {
    const std::string source = ReadTestdata(absl::StrCat(name, "_chat_template.jinja"));
    for (size_t size = 0; size < source.size(); size += 1 + random() % 7) {
      const auto parsed = ChatTemplate::Parse(source.substr(0, size));
      if (parsed.ok()) parsed->Render(input, limits).status().IgnoreError();
    }
    for (int i = 0; i < 1000; ++i) {
      std::string changed = source;
      for (size_t n = 1 + random() % 4; n > 0; --n) {
        const size_t at = random() % changed.size();
        switch (random() % 3) {
          case 0:
            changed[at] = static_cast<char>(random());
            break;
          case 1:
            changed.erase(at, 1 + random() % 8);
            break;
          default:
            changed.insert(at, changed.substr(random() % changed.size(), random() % 12));
        }
        if (changed.empty()) changed = "x";
      }
      const auto parsed = ChatTemplate::Parse(changed);
      if (parsed.ok()) parsed->Render(input, limits).status().IgnoreError();
    }
  }
}

}  // namespace
}  // namespace outrider::text
