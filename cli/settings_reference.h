// docs/settings.md, made of proto/config.proto. Pure.
#pragma once

#include <string>

namespace outrider {

// The whole file as Markdown: a table a process.
std::string SettingsReference();

}  // namespace outrider
