#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace outrider {
namespace {

winsize Size(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) != 0) return {};
  return size;
}

}  // namespace

bool IsTerminal(int fd) { return ::isatty(fd) == 1; }

bool ObeysEscapes(int fd) {
  const char* const term = std::getenv("TERM");
  return IsTerminal(fd) && term != nullptr && std::strcmp(term, "dumb") != 0;
}

bool UseColour(int fd) {
  const char* const no_color = std::getenv("NO_COLOR");
  return (no_color == nullptr || *no_color == '\0') && ObeysEscapes(fd);
}

int TerminalWidth(int fd) {
  const int columns = Size(fd).ws_col;
  return columns > 0 ? columns : 80;
}

int TerminalHeight(int fd) {
  const int rows = Size(fd).ws_row;
  return rows > 0 ? rows : 24;
}

}  // namespace outrider
