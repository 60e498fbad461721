#include "cli/settings_reference.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cli/config_schema.h"
#include "proto/config.pb.h"

namespace outrider {
namespace {

std::string Cell(const std::string& text) { return absl::StrReplaceAll(text, {{"|", "\\|"}, {"<", "&lt;"}}); }

}  // namespace

std::string SettingsReference() {
  std::string text =
      "# Settings\n\n"
      "Made of proto/config.proto by `outrider config reference`; cli:settings_reference_test checks that it still "
      "is.\n\n"
      "Each name is a line of the YAML file given by `--config`, a flag (`--max-model-len`) and a variable\n"
      "(`OUTRIDER_MAX_MODEL_LEN`); a flag wins over a variable, a variable over the file. `outrider config dump "
      "PROCESS` says\n"
      "what is in force and why.\n";
  const struct {
    const char* process;
    const google::protobuf::Descriptor* message;
  } processes[] = {{"router", v1::RouterConfig::descriptor()},
                   {"target", v1::TargetConfig::descriptor()},
                   {"draft", v1::DraftConfig::descriptor()}};
  for (const auto& [process, message] : processes) {
    absl::StrAppend(&text, "\n## outrider ", process, "\n\n| setting | default | |\n|---|---|---|\n");
    for (const Setting& setting : SettingsOf(*message)) {
      absl::StrAppend(&text, "| `", setting.name, "` | ",
                      setting.default_value.empty() ? std::string() : absl::StrCat("`", setting.default_value, "`"),
                      " | ", Cell(setting.help), " |\n");
    }
  }
  return text;
}

}  // namespace outrider
