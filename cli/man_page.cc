#include "cli/man_page.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace outrider {
namespace {

// Text that roff takes for nothing else: backslashes, hyphens of flags, and dots and quotes at the start of a line.
std::string Roff(const std::string& text) {
  std::string roff = absl::StrReplaceAll(text, {{"\\", "\\e"}, {"-", "\\-"}});
  std::vector<std::string> lines = absl::StrSplit(roff, '\n');
  for (std::string& line : lines) {
    if (!line.empty() && (line[0] == '.' || line[0] == '\'')) line = absl::StrCat("\\&", line);
  }
  return absl::StrJoin(lines, "\n");
}

std::string Full(const CommandInfo& command) {
  return command.path.empty() ? "outrider" : absl::StrCat("outrider ", absl::StrJoin(command.path, " "));
}

}  // namespace

std::string ManPageName(const CommandInfo& command) { return absl::StrReplaceAll(Full(command), {{" ", "-"}}); }

std::string ManPage(const CommandInfo& command, const std::vector<CommandInfo>& all, const std::string& version) {
  const std::string name = ManPageName(command);
  std::string page = absl::StrCat(".TH ", Roff(absl::AsciiStrToUpper(name)), " 1 \"\" \"outrider ", version,
                                  "\" \"Outrider\"\n.SH NAME\n", Roff(name), " \\- ", Roff(command.help),
                                  "\n.SH SYNOPSIS\n.B ", Roff(Full(command)), "\n");
  if (!command.below.empty()) page += ".I COMMAND\n";
  if (!command.flags.empty()) page += ".RI [ FLAGS ]\n";
  for (const std::string& positional : command.positionals) absl::StrAppend(&page, ".I ", Roff(positional), "\n");
  if (!command.below.empty()) {
    page += ".SH COMMANDS\n";
    for (const CommandInfo& one : all) {
      if (one.path.size() != command.path.size() + 1 ||
          !std::equal(command.path.begin(), command.path.end(), one.path.begin())) {
        continue;
      }
      absl::StrAppend(&page, ".TP\n.B ", Roff(one.path.back()), "\n", Roff(one.help), ". See ", Roff(ManPageName(one)),
                      "(1).\n");
    }
  }
  if (!command.flags.empty()) page += ".SH FLAGS\n";
  for (const FlagInfo& flag : command.flags) {
    std::vector<std::string> names;
    for (const std::string& one : flag.names) names.push_back(absl::StrCat("\\fB", Roff(one), "\\fR"));
    absl::StrAppend(&page, ".TP\n", absl::StrJoin(names, ", "),
                    flag.value.empty() ? std::string() : absl::StrCat(" \\fI", Roff(flag.value), "\\fR"), "\n",
                    flag.help.empty() ? "\\&" : Roff(flag.help), "\n");
  }
  if (!command.footer.empty()) {
    // Notes, then "Example:" or "Examples:" with lines of their own.
    const size_t at = command.footer.find("Example");
    const std::string notes = command.footer.substr(0, at);
    if (!absl::StripAsciiWhitespace(notes).empty()) {
      absl::StrAppend(&page, ".SH NOTES\n", Roff(std::string(absl::StripAsciiWhitespace(notes))), "\n");
    }
    if (at != std::string::npos) {
      const size_t line = command.footer.find('\n', at);
      if (line != std::string::npos) {
        absl::StrAppend(&page, ".SH EXAMPLES\n.nf\n", Roff(command.footer.substr(line + 1)), "\n.fi\n");
      }
    }
  }
  if (!command.path.empty()) {
    std::string parent = "outrider";
    for (size_t i = 0; i + 1 < command.path.size(); ++i) absl::StrAppend(&parent, "-", command.path[i]);
    absl::StrAppend(&page, ".SH SEE ALSO\n.BR ", Roff(parent), " (1)\n");
  }
  return page;
}

}  // namespace outrider
