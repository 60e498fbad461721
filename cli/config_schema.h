// The settings of proto/config.proto as data: names, defaults and the comments that explain them, for --help and
// errors.
#pragma once

#include <google/protobuf/descriptor.h>

#include <string>
#include <vector>

namespace outrider {

struct Setting {
  std::string name;           // max_model_len; the YAML key
  std::string flag;           // --max-model-len
  std::string variable;       // OUTRIDER_MAX_MODEL_LEN
  std::string help;           // the comment in config.proto
  std::string default_value;  // as text; empty when there is none
};

// Every setting of a message of config.proto, in the file's order.
std::vector<Setting> SettingsOf(const google::protobuf::Descriptor& message);

// Letters to insert, remove or replace (Levenshtein).
int EditDistance(const std::string& a, const std::string& b);

// The candidate with the least edit distance to `name`; empty if none is near (more than a third of it differs).
std::string NearestName(const std::string& name, const std::vector<std::string>& candidates);

}  // namespace outrider
