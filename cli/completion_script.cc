#include "cli/completion_script.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace outrider {
namespace {

// " bench serve"; of the program itself "".
std::string PathText(const CommandInfo& command) {
  return command.path.empty() ? "" : absl::StrCat(" ", absl::StrJoin(command.path, " "));
}

// Of several sentences the first: what fits a line.
std::string Brief(const std::string& help) {
  const size_t end = help.find(". ");
  std::string brief = help.substr(0, end);
  if (!brief.empty() && brief.back() == '.') brief.pop_back();
  return absl::StrReplaceAll(brief, {{"\n", " "}});
}

std::string SingleQuoted(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

// Patterns of a case over "$path $word": the words that go down the tree.
std::string Paths(const std::vector<CommandInfo>& commands) {
  std::vector<std::string> paths;
  for (const CommandInfo& command : commands) {
    if (!command.path.empty()) paths.push_back(absl::StrCat("\"", PathText(command), "\""));
  }
  return absl::StrJoin(paths, "|");
}

}  // namespace

std::string BashCompletion(const std::vector<CommandInfo>& commands) {
  std::string cases;
  for (const CommandInfo& command : commands) {
    std::vector<std::string> flags, files, values;
    for (const FlagInfo& flag : command.flags) {
      for (const std::string& name : flag.names) {
        flags.push_back(name);
        if (flag.takes_file) files.push_back(name);
        if (!flag.value.empty() && !flag.takes_file) values.push_back(name);
      }
    }
    absl::StrAppend(&cases, "    \"", PathText(command), "\")\n      below=\"", absl::StrJoin(command.below, " "),
                    "\"\n      flags=\"", absl::StrJoin(flags, " "), "\"\n      files=\" ", absl::StrJoin(files, " "),
                    " \"\n      values=\" ", absl::StrJoin(values, " "), " \"\n      ;;\n");
  }
  return absl::StrCat(
      "# bash completion of outrider: source <(outrider completion bash)\n"
      "_outrider() {\n"
      "  local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\" path=\"\" word below flags files "
      "values\n"
      "  COMPREPLY=()\n"
      "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
      "    case \"$path $word\" in\n"
      "      ",
      Paths(commands),
      ") path=\"$path $word\" ;;\n"
      "    esac\n"
      "  done\n"
      "  case \"$path\" in\n",
      cases,
      "  esac\n"
      "  if [[ \"$files\" == *\" $prev \"* ]]; then\n"
      "    compopt -o filenames 2>/dev/null\n"
      "    mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
      "  elif [[ \"$values\" == *\" $prev \"* ]]; then\n"
      "    return\n"
      "  elif [[ \"$cur\" == -* ]]; then\n"
      "    mapfile -t COMPREPLY < <(compgen -W \"$flags\" -- \"$cur\")\n"
      "  elif [[ -n \"$below\" ]]; then\n"
      "    mapfile -t COMPREPLY < <(compgen -W \"$below\" -- \"$cur\")\n"
      "  else\n"
      "    compopt -o filenames 2>/dev/null\n"
      "    mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
      "  fi\n"
      "}\n"
      "complete -F _outrider outrider\n");
}

std::string ZshCompletion(const std::vector<CommandInfo>& commands) {
  const auto item = [](const std::string& name, const std::string& help) {
    return SingleQuoted(absl::StrCat(absl::StrReplaceAll(name, {{":", "\\:"}}), ":", Brief(help)));
  };
  std::string cases;
  for (const CommandInfo& command : commands) {
    std::vector<std::string> below, flags;
    for (const CommandInfo& one : commands) {
      if (one.path.size() == command.path.size() + 1 &&
          std::equal(command.path.begin(), command.path.end(), one.path.begin())) {
        below.push_back(item(one.path.back(), one.help));
      }
    }
    for (const FlagInfo& flag : command.flags) {
      for (const std::string& name : flag.names) flags.push_back(item(name, flag.help));
    }
    absl::StrAppend(&cases, "    (\"", PathText(command), "\")\n      below=(", absl::StrJoin(below, " "),
                    ")\n      flags=(", absl::StrJoin(flags, " "), ")\n      ;;\n");
  }
  return absl::StrCat(
      "#compdef outrider\n"
      "# zsh completion of outrider: source <(outrider completion zsh), or a file _outrider on $fpath\n"
      "_outrider() {\n"
      "  local place='' word\n"
      "  local -a below flags\n"
      "  for word in ${words[2,CURRENT-1]}; do\n"
      "    case \"$place $word\" in\n"
      "      (",
      Paths(commands),
      ") place=\"$place $word\" ;;\n"
      "    esac\n"
      "  done\n"
      "  case \"$place\" in\n",
      cases,
      "  esac\n"
      "  if [[ \"${words[CURRENT]}\" == -* ]]; then\n"
      "    _describe -o 'flag' flags\n"
      "  elif (( $#below )); then\n"
      "    _describe 'command' below\n"
      "  else\n"
      "    _files\n"
      "  fi\n"
      "}\n"
      "if [ \"$funcstack[1]\" = \"_outrider\" ]; then\n"
      "  _outrider \"$@\"\n"
      "else\n"
      "  compdef _outrider outrider\n"
      "fi\n");
}

std::string FishCompletion(const std::vector<CommandInfo>& commands) {
  // Fish's own quoting: a backslash before quotes and backslashes.
  const auto quoted = [](const std::string& text) {
    return absl::StrCat("'", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}}), "'");
  };
  std::string script = absl::StrCat(
      "# fish completion of outrider: outrider completion fish | source\n"
      "function __outrider_at\n"
      "  set -l place ''\n"
      "  for word in (commandline -opc)[2..-1]\n"
      "    switch \"$place $word\"\n"
      "      case ");
  for (const CommandInfo& command : commands) {
    if (!command.path.empty()) absl::StrAppend(&script, quoted(PathText(command)), " ");
  }
  script += "\n        set place \"$place $word\"\n    end\n  end\n  test \"$place\" = \"$argv[1]\"\nend\n";
  for (const CommandInfo& command : commands) {
    const std::string at = quoted(absl::StrCat("__outrider_at ", quoted(PathText(command))));
    for (const CommandInfo& one : commands) {
      if (one.path.size() != command.path.size() + 1 ||
          !std::equal(command.path.begin(), command.path.end(), one.path.begin())) {
        continue;
      }
      absl::StrAppend(&script, "complete -c outrider -f -n ", at, " -a ", quoted(one.path.back()), " -d ",
                      quoted(Brief(one.help)), "\n");
    }
    for (const FlagInfo& flag : command.flags) {
      absl::StrAppend(&script, "complete -c outrider -n ", at);
      for (const std::string& name : flag.names) {
        absl::StrAppend(&script,
                        name[1] == '-' ? absl::StrCat(" -l ", name.substr(2)) : absl::StrCat(" -s ", name.substr(1)));
      }
      absl::StrAppend(&script,
                      flag.value.empty() ? ""
                      : flag.takes_file  ? " -r -F"
                                         : " -x",
                      " -d ", quoted(Brief(flag.help)), "\n");
    }
  }
  return script;
}

}  // namespace outrider
