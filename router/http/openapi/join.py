"""Joins the files of the OpenAPI document: join.py FILE.yaml... > openapi.json; with --cc as C++ that holds it."""

import json
import sys

import yaml

# Of one literal, in bytes: compilers have bounds, and lines are read by people.
LINE = 96


def join(into, part):
    for key, value in part.items():
        if isinstance(into.get(key), dict) and isinstance(value, dict):
            join(into[key], value)
        elif key in into:
            raise SystemExit(f"join.py: {key} is in two files")
        else:
            into[key] = value


def literal(text):
    lines = [text[i:i + LINE] for i in range(0, len(text), LINE)]
    return "\n      ".join('"' + line.replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?") + '"' for line in lines)


def main():
    arguments = sys.argv[1:]
    document = {}
    for file in (a for a in arguments if a.endswith(".yaml")):
        with open(file, encoding="utf-8") as stream:
            join(document, yaml.safe_load(stream))
    document.pop("x-errors")  # what the files share
    text = json.dumps(document, separators=(",", ":"))  # ASCII
    if "--cc" not in arguments:
        print(text)
        return
    print('#include "router/http/openapi.h"\n\nnamespace outrider::router {\n\n'
          "absl::string_view OpenApiDocument() {\n  static constexpr char kDocument[] =\n      " + literal(text) +
          f";\n  return absl::string_view(kDocument, {len(text)});\n}}\n\n}}  // namespace outrider::router")


main()
