// Messages as JSON: every field by its name in the .proto, also those that are zero; numbers as numbers (of 64 bits
// too, where proto3's own mapping has strings), enums by name, repeated fields as arrays. Of messages whose strings are
// UTF-8, without maps and bytes.
//
// Thread safety: pure functions.
#pragma once

#include <google/protobuf/message.h>

#include <string>

namespace outrider::router {

void AppendMessageJson(const google::protobuf::Message& message, std::string* out);

}  // namespace outrider::router
