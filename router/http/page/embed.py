"""Writes a C++ file that holds the files of the page: embed.py FILE... > page_files.cc"""

import hashlib
import os
import sys

TYPES = {".css": "text/css; charset=utf-8", ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".svg": "image/svg+xml"}
# Of one literal, in bytes: compilers have bounds, and lines are read by people.
LINE = 96


def literal(data):
    """Octal escapes are three digits at most, so what follows them is never taken in."""
    def escaped(byte):
        if byte == 10:
            return "\\n"
        if byte in b'"\\?' or not 32 <= byte < 127:
            return f"\\{byte:03o}"
        return chr(byte)

    lines = [data[i:i + LINE] for i in range(0, len(data), LINE)]
    return "\n    ".join('"' + "".join(escaped(byte) for byte in line) + '"' for line in lines)


def main():
    entries = []
    for file in sorted(sys.argv[1:]):
        name = os.path.basename(file)
        with open(file, "rb") as stream:
            data = stream.read()
        path = "/" if name == "index.html" else f"/page/{name}"
        etag = hashlib.sha256(data).hexdigest()[:20]
        entries.append(f'    {{"{path}", "{TYPES[os.path.splitext(name)[1]]}", "\\"{etag}\\"",\n     absl::string_view(\n'
                       f"    {literal(data)},\n     {len(data)})}},")
    print('#include "router/http/page_files.h"\n\nnamespace outrider::router {\n\n'
          "absl::Span<const PageFile> PageFiles() {\n  static constexpr PageFile kFiles[] = {\n" + "\n".join(entries) +
          "\n  };\n  return kFiles;\n}\n\n}  // namespace outrider::router")


main()
