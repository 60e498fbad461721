// What can be done with a terminal: colours, width, progress in place.
#pragma once

#include <string>

namespace outrider {

bool IsTerminal(int fd);
// A terminal that is not "dumb".
bool ObeysEscapes(int fd);
// The same, unless NO_COLOR is set to anything (no-color.org).
bool UseColour(int fd);
// Columns; 80 where it is not known.
int TerminalWidth(int fd);
int TerminalHeight(int fd);  // rows; 24 where it is not known

}  // namespace outrider
