#include "router/http/message_json.h"

#include <google/protobuf/descriptor.h>

#include "base/status_macros.h"
#include "router/http/json_writer.h"

namespace outrider::router {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Field `field` of `message`, or its element `index` if it is repeated.
void AppendValue(const Message& message, const FieldDescriptor* field, int index, std::string* out) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const bool repeated = field->is_repeated();
  const auto value = [&](auto get, auto get_repeated) {
    return repeated ? (reflection.*get_repeated)(message, field, index) : (reflection.*get)(message, field);
  };
  using R = google::protobuf::Reflection;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return AppendJsonNumber(int64_t{value(&R::GetInt32, &R::GetRepeatedInt32)}, out);
    case FieldDescriptor::CPPTYPE_UINT32:
      return AppendJsonNumber(int64_t{value(&R::GetUInt32, &R::GetRepeatedUInt32)}, out);
    case FieldDescriptor::CPPTYPE_INT64:
      return AppendJsonNumber(int64_t{value(&R::GetInt64, &R::GetRepeatedInt64)}, out);
    case FieldDescriptor::CPPTYPE_UINT64:
      out->append(std::to_string(value(&R::GetUInt64, &R::GetRepeatedUInt64)));
      return;
    case FieldDescriptor::CPPTYPE_FLOAT:
      return AppendJsonNumber(value(&R::GetFloat, &R::GetRepeatedFloat), out);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return AppendJsonNumber(value(&R::GetDouble, &R::GetRepeatedDouble), out);
    case FieldDescriptor::CPPTYPE_BOOL:
      out->append(value(&R::GetBool, &R::GetRepeatedBool) ? "true" : "false");
      return;
    case FieldDescriptor::CPPTYPE_STRING:
      CHECK(field->type() == FieldDescriptor::TYPE_STRING);
      return AppendJsonString(value(&R::GetString, &R::GetRepeatedString), out);
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int number = value(&R::GetEnumValue, &R::GetRepeatedEnumValue);
      const auto* known = field->enum_type()->FindValueByNumber(number);
      if (known == nullptr) return AppendJsonNumber(int64_t{number}, out);
      return AppendJsonString(known->name(), out);
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return AppendMessageJson(
          repeated ? reflection.GetRepeatedMessage(message, field, index) : reflection.GetMessage(message, field), out);
  }
}

}  // namespace

void AppendMessageJson(const Message& message, std::string* out) {
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  out->push_back('{');
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* const field = type.field(i);
    AppendJsonKey(field->name(), out);
    if (!field->is_repeated()) {
      AppendValue(message, field, 0, out);
      continue;
    }
    out->push_back('[');
    const int count = message.GetReflection()->FieldSize(message, field);
    for (int j = 0; j < count; ++j) {
      if (j > 0) out->push_back(',');
      AppendValue(message, field, j, out);
    }
    out->push_back(']');
  }
  out->push_back('}');
}

}  // namespace outrider::router
