// Runs the real program for a test and gathers what it said.
#pragma once

#include <string>
#include <vector>

namespace outrider {

struct ProgramResult {
  int exit_code = -1;  // 128 + the signal that ended it, as a shell says it
  std::string out;
  std::string err;
};

// `outrider` with these arguments, `input` on standard input, and `variables` ("NAME=value") besides this process's
// environment. Ends with the thread that called.
ProgramResult RunProgram(const std::vector<std::string>& arguments, const std::string& input = "",
                         const std::vector<std::string>& variables = {});

// Where the program is: a path that can be executed.
std::string ProgramPath();

}  // namespace outrider
