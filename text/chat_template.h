// Chat templates: the Jinja that published models use, interpreted as Hugging Face does it (trim_blocks, lstrip_blocks,
// raise_exception, strftime_now, generation tags, loop controls), without Python.
//
// Templates come from model files and messages from users: both are untrusted. A template can read what Render is given
// and nothing else; its output, steps, recursion and values are bounded.
#pragma once

#include <cstddef>
#include <ctime>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace outrider::text {

// What Render stops at, with RESOURCE_EXHAUSTED naming the bound and the line.
struct ChatTemplateLimits {
  size_t max_output_bytes = size_t{16} << 20;
  size_t max_steps = 2'000'000;               // statements and expressions evaluated, items iterated
  size_t max_value_bytes = size_t{32} << 20;  // of all strings and lists made while rendering, together
  int max_depth = 100;                        // of macro calls, nested values in tojson
};
// What Parse stops at, with INVALID_ARGUMENT.
inline constexpr size_t kMaxTemplateBytes = size_t{1} << 20;
inline constexpr int kMaxTemplateNesting = 100;  // blocks within blocks, parentheses within parentheses

struct ChatTemplateInput {
  // A list of objects: {"role": ..., "content": ...}, and whatever else the template reads (tool_calls, ...). Ordered,
  // since tojson shows the order of keys.
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  bool add_generation_prompt = true;
  std::string bos_token;  // the token's text; empty when the model has none
  std::string eos_token;
  // Further variables by name: tools, documents, enable_thinking, ... An object; wins over the names above.
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();
  // What strftime_now(format) shows. Without it the function is not defined.
  std::optional<std::tm> now;
};

// Thread safety: immutable; any number of threads may Render at once. Cheap to copy (the tree is shared).
class ChatTemplate {
 public:
  // Errors: INVALID_ARGUMENT "chat template line N: ...".
  static absl::StatusOr<ChatTemplate> Parse(absl::string_view source);

  // The prompt's text, to be encoded with parse_special (and without add_special: templates write bos themselves).
  // Errors: INVALID_ARGUMENT when the template raises an exception (its own message is in ours) or does what Jinja
  // would refuse, RESOURCE_EXHAUSTED at a limit; both begin "chat template line N: ".
  absl::StatusOr<std::string> Render(const ChatTemplateInput& input, const ChatTemplateLimits& limits = {}) const;

  struct Tree;  // chat_template.cc

 private:
  explicit ChatTemplate(std::shared_ptr<const Tree> tree) : tree_(std::move(tree)) {}
  std::shared_ptr<const Tree> tree_;
};

}  // namespace outrider::text
