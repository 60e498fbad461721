#include "text/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "text/utf8.h"

namespace outrider::text {
namespace {

// Far above what a linear pattern takes on the longest prompt, far below a hang.
constexpr uint32_t kMatchLimit = 100'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
// For JIT code; grown on demand, and our patterns need little: nothing in them repeats a group.
constexpr size_t kJitStackBytesMin = 32 * 1024;
constexpr size_t kJitStackBytesMax = 1024 * 1024;

// GPT-2's pattern (Radford et al. 2019, encoder.py).
constexpr char kGpt2[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr char kDigit[] = R"(\p{N})";
// The patterns of the tokenizer.json files of Llama 3, Qwen 2, Qwen 3.5, Mistral's Tekken and GPT-4o.
constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
    R"(\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
    R"(\s+(?!\S)|\s+)";
constexpr char kQwen35[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kTekken[] = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
                           R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
                           R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kGpt4o[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// What llama.cpp does when a file names no pre-tokenizer, and for Falcon.
constexpr char kDefaultPunctuation[] = R"([\p{P}\$\+<=>\^~\|]+)";
constexpr char kFalconPunctuation[] = R"([\p{P}\$\+<=>\^~\|`]+)";
constexpr char kDigits[] = R"(\p{N}+)";
constexpr char kThreeDigits[] = R"([0-9][0-9][0-9])";

struct Recipe {
  const char* name;
  std::vector<const char*> patterns;
  bool nfc;
};

const std::vector<Recipe>& Recipes() {
  static const std::vector<Recipe>* const recipes = new std::vector<Recipe>{
      {"gpt-2", {kGpt2}, false},
      {"smollm", {kDigit, kGpt2}, false},
      {"llama-bpe", {kLlama3}, false},
      {"smaug-bpe", {kLlama3}, false},
      {"qwen2", {kQwen2}, true},
      {"deepseek-r1-qwen", {kQwen2}, false},
      {"qwen35", {kQwen35}, true},
      {"tekken", {kTekken}, false},
      {"gpt-4o", {kGpt4o}, false},
      {"falcon", {kFalconPunctuation, kGpt2, kThreeDigits}, false},
      {"default", {kDefaultPunctuation, kGpt2, kDigits, kThreeDigits}, false},
      // Further names of the same.
      {"jais", {kGpt2}, false},
      {"mpt", {kGpt2}, false},
      {"olmo", {kGpt2}, false},
      {"phi-2", {kGpt2}, false},
      {"codeshell", {kDigit, kGpt2}, false},
      {"command-r", {kDigit, kGpt2}, false},
      {"exaone", {kDigit, kGpt2}, false},
      {"refact", {kDigit, kGpt2}, false},
      {"starcoder", {kDigit, kGpt2}, false},
      {"dbrx", {kLlama3}, false},
      {"falcon3", {kLlama3}, false},
      {"glm4", {kLlama3}, false},
      {"llama-v3", {kLlama3}, false},
      {"llama3", {kLlama3}, false},
  };
  return *recipes;
}

// What pcre2_match needs besides the code; one a Split, so that Split may run on many threads.
class MatchState {
 public:
  MatchState()
      : data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        jit_stack_(pcre2_jit_stack_create(kJitStackBytesMin, kJitStackBytesMax, nullptr)) {
    CHECK(data_ != nullptr && context_ != nullptr);
    pcre2_set_match_limit(context_, kMatchLimit);
    pcre2_set_heap_limit(context_, kHeapLimitKib);
    if (jit_stack_ != nullptr) pcre2_jit_stack_assign(context_, nullptr, jit_stack_);
  }
  ~MatchState() {
    pcre2_match_data_free(data_);
    pcre2_match_context_free(context_);
    if (jit_stack_ != nullptr) pcre2_jit_stack_free(jit_stack_);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;

  struct Range {
    size_t first;
    size_t end;
  };
  // The first match at or after `from`, by JIT code where there is any. REQUIRES: `text` is UTF-8, `from` a boundary.
  std::optional<Range> Find(const pcre2_code* code, absl::string_view text, size_t from) {
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data_, context_);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data_, context_);
    }
    if (rc < 0) return std::nullopt;  // no match, or a limit: see PreTokenizer
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data_);
    return Range{offsets[0], offsets[1]};
  }

 private:
  pcre2_match_data* const data_;
  pcre2_match_context* const context_;
  pcre2_jit_stack* const jit_stack_;
};

// Calls `visit(part, is_valid)` for the maximal runs of valid and of invalid UTF-8, in order.
template <typename Visitor>
void ForEachUtf8Run(absl::string_view text, Visitor visit) {
  while (!text.empty()) {
    const size_t num_valid = FirstInvalidUtf8(text).value_or(text.size());
    if (num_valid > 0) visit(text.substr(0, num_valid), true);
    text.remove_prefix(num_valid);
    size_t num_invalid = 0;
    while (num_invalid < text.size()) {
      const Utf8Step step = DecodeUtf8(text.substr(num_invalid));
      if (step.kind == Utf8Step::Kind::kCharacter) break;
      num_invalid += step.num_bytes;
    }
    if (num_invalid > 0) visit(text.substr(0, num_invalid), false);
    text.remove_prefix(num_invalid);
  }
}

bool IsAscii(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

}  // namespace

struct PreTokenizer::Pattern {
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  };
  std::unique_ptr<pcre2_code, Free> code;
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::~PreTokenizer() = default;

std::vector<std::string> SupportedPreTokenizers() {
  std::vector<std::string> names;
  for (const Recipe& recipe : Recipes()) names.push_back(recipe.name);
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> PreTokenizersByPatterns(const std::vector<std::string>& patterns, bool nfc) {
  std::vector<std::string> names;
  for (const Recipe& recipe : Recipes()) {
    if (recipe.nfc == nfc && std::equal(patterns.begin(), patterns.end(), recipe.patterns.begin(),
                                        recipe.patterns.end(), [](const auto& a, const char* b) { return a == b; })) {
      names.push_back(recipe.name);
    }
  }
  return names;
}

std::string Gpt2SplitPattern() { return kGpt2; }

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Make(absl::string_view name) {
  if (name.empty()) name = "default";
  const auto recipe = std::find_if(Recipes().begin(), Recipes().end(), [&](const Recipe& r) { return r.name == name; });
  if (recipe == Recipes().end()) {
    return absl::InvalidArgumentError(absl::StrCat("unknown pre-tokenizer \"", name.substr(0, 64),
                                                   "\"; known: ", absl::StrJoin(SupportedPreTokenizers(), ", ")));
  }
  std::unique_ptr<PreTokenizer> pre_tokenizer(new PreTokenizer);
  pre_tokenizer->normalizes_ = recipe->nfc;
  for (const char* written : recipe->patterns) {
    // PCRE2's \s has U+180E too, which Unicode, and the libraries vocabularies were made with, no longer call space.
    const std::string source = absl::StrReplaceAll(written, {{R"(\s)", R"(\p{wspace})"}, {R"(\S)", R"(\P{wspace})"}});
    int error = 0;
    PCRE2_SIZE offset = 0;
    Pattern pattern;
    pattern.code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr));
    CHECK(pattern.code != nullptr);  // the patterns are ours
    // Without JIT (a system may forbid it) the interpreter is used: slower, the same matches.
    pcre2_jit_compile(pattern.code.get(), PCRE2_JIT_COMPLETE);
    pre_tokenizer->patterns_.push_back(std::move(pattern));
  }
  return pre_tokenizer;
}

std::string PreTokenizer::Normalize(absl::string_view text) const {
  if (!normalizes_ || IsAscii(text)) return std::string(text);
  std::string out;
  out.reserve(text.size());
  ForEachUtf8Run(text, [&out](absl::string_view run, bool is_valid) {
    utf8proc_uint8_t* composed = nullptr;
    utf8proc_ssize_t num_bytes = -1;
    if (is_valid) {
      num_bytes =
          utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.data()), static_cast<utf8proc_ssize_t>(run.size()),
                       &composed, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    }
    if (num_bytes >= 0) {
      out.append(reinterpret_cast<const char*>(composed), static_cast<size_t>(num_bytes));
    } else {
      out.append(run.data(), run.size());
    }
    std::free(composed);
  });
  return out;
}

void PreTokenizer::Split(absl::string_view text, std::vector<absl::string_view>* pieces) const {
  pieces->clear();
  // A piece that is not UTF-8 is passed by every pattern.
  struct Piece {
    absl::string_view text;
    bool is_valid;
  };
  std::vector<Piece> current;
  ForEachUtf8Run(text, [&](absl::string_view run, bool is_valid) { current.push_back({run, is_valid}); });
  std::vector<Piece> next;
  MatchState state;
  for (const Pattern& pattern : patterns_) {
    next.clear();
    for (const Piece& piece : current) {
      if (!piece.is_valid) {
        next.push_back(piece);
        continue;
      }
      size_t position = 0;
      while (position < piece.text.size()) {
        const auto match = state.Find(pattern.code.get(), piece.text, position);
        if (!match.has_value()) break;
        if (match->first > position) next.push_back({piece.text.substr(position, match->first - position), true});
        CHECK(match->end > match->first);  // no pattern of ours matches nothing
        next.push_back({piece.text.substr(match->first, match->end - match->first), true});
        position = match->end;
      }
      if (position < piece.text.size()) next.push_back({piece.text.substr(position), true});
    }
    std::swap(current, next);
  }
  pieces->reserve(current.size());
  for (const Piece& piece : current) pieces->push_back(piece.text);
}

}  // namespace outrider::text
