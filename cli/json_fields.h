// Names the fields of a JSON object that a protobuf message does not have, which protobuf's own parser does less well.
// Pure.
#pragma once

#include <google/protobuf/descriptor.h>

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"

namespace outrider {

// INVALID_ARGUMENT naming the first unknown field by its path ("messages[1].rol"), and the nearest one there is. Fields
// are known by their names in the .proto file and in lowerCamelCase. Types of values are left to the parser.
absl::Status CheckJsonFields(const nlohmann::json& json, const google::protobuf::Descriptor& message);

}  // namespace outrider
