#include "text/chat_template.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"
#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace outrider::text {
namespace {

using Json = nlohmann::ordered_json;

absl::StatusOr<jinja::Value> FromJson(jinja::Runtime& runtime, const Json& json, int depth) {
  if (depth > jinja::kMaxValueDepth) return runtime.Exhausted("levels of nested values", jinja::kMaxValueDepth);
  switch (json.type()) {
    case Json::value_t::boolean:
      return jinja::Value(json.get<bool>());
    case Json::value_t::number_integer:
      return jinja::Value(json.get<int64_t>());
    case Json::value_t::number_unsigned: {
      const uint64_t number = json.get<uint64_t>();
      if (number > static_cast<uint64_t>(INT64_MAX)) return jinja::Value(static_cast<double>(number));
      return jinja::Value(static_cast<int64_t>(number));
    }
    case Json::value_t::number_float:
      return jinja::Value(json.get<double>());
    case Json::value_t::string:
      return runtime.NewString(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      std::vector<jinja::Value> items;
      items.reserve(json.size());
      for (const Json& item : json) {
        ASSIGN_OR_RETURN(jinja::Value value, FromJson(runtime, item, depth + 1));
        items.push_back(std::move(value));
      }
      return runtime.NewList(std::move(items));
    }
    case Json::value_t::object: {
      jinja::Dict dict;
      for (const auto& [key, item] : json.items()) {
        ASSIGN_OR_RETURN(jinja::Value value, FromJson(runtime, item, depth + 1));
        dict.Set(jinja::Value::String(key), std::move(value));
      }
      return runtime.NewDict(std::move(dict));
    }
    default:
      return jinja::Value(jinja::None{});
  }
}

}  // namespace

struct ChatTemplate::Tree {
  jinja::Block block;
};

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(absl::string_view source) {
  if (source.size() > kMaxTemplateBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("chat template is ", source.size(), " bytes; at most ", kMaxTemplateBytes, " are allowed"));
  }
  auto tree = std::make_shared<Tree>();
  ASSIGN_OR_RETURN(tree->block, jinja::Parse(source));
  return ChatTemplate(std::move(tree));
}

absl::StatusOr<std::string> ChatTemplate::Render(const ChatTemplateInput& input,
                                                 const ChatTemplateLimits& limits) const {
  jinja::Runtime runtime({.max_output_bytes = limits.max_output_bytes,
                          .max_steps = limits.max_steps,
                          .max_value_bytes = limits.max_value_bytes,
                          .max_call_depth = limits.max_depth},
                         input.now);
  absl::flat_hash_map<std::string, jinja::Value> variables;
  ASSIGN_OR_RETURN(variables["messages"], FromJson(runtime, input.messages, 1));
  variables["add_generation_prompt"] = jinja::Value(input.add_generation_prompt);
  variables["bos_token"] = jinja::Value::String(input.bos_token);
  variables["eos_token"] = jinja::Value::String(input.eos_token);
  // Hugging Face passes these always; templates ask whether they are none.
  variables["tools"] = jinja::Value(jinja::None{});
  variables["documents"] = jinja::Value(jinja::None{});
  if (!input.extra.is_object() && !input.extra.is_null()) {
    return absl::InvalidArgumentError("extra variables of a chat template are not an object");
  }
  for (const auto& [name, value] : input.extra.items()) {
    ASSIGN_OR_RETURN(variables[name], FromJson(runtime, value, 1));
  }
  return jinja::Render(tree_->block, variables, &runtime);
}

}  // namespace outrider::text
