#!/usr/bin/env python3
"""Holds the documents to the tree: what docs/troubleshooting.md quotes is said by the program, metrics named anywhere in
docs/ are in docs/metrics.md, settings in tables exist, and links lead somewhere.

    docs.py ROOT | docs.py --self-test
"""

import os
import re
import sys

SOURCES = ("base", "cli", "kernels", "router", "security", "text", "worker")
SPELLED_ELSEWHERE = ("_bucket", "_sum", "_count")


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def strings_of(source):
    """All string literals of C++, those that follow each other joined, names between them as a blank."""
    return re.sub(r'"\s*\n?\s*"', "", source)


def program_text(root):
    parts = []
    for folder in SOURCES:
        for where, _, names in os.walk(os.path.join(root, folder)):
            parts += [strings_of(read(os.path.join(where, name))) for name in names
                      if name.endswith((".cc", ".h")) and not name.endswith("_test.cc")]
    return "\n".join(parts)


def quotes_of(markdown):
    """What the first column of tables headed 'it says' quotes."""
    quotes, quoting = [], False
    for line in markdown.splitlines():
        if line.startswith("| it says |"):
            quoting = True
        elif not line.startswith("|"):
            quoting = False
        elif quoting and not line.startswith("|---"):
            quotes += re.findall(r"`([^`]+)`", line.split("|")[1])
    return quotes


def metric_names(markdown):
    return set(re.findall(r"\boutrider_[a-z_]*[a-z]\b", markdown))


def problems_of(documents, program, exists):
    """`documents`: text by path; `exists`: whether a path is there."""
    problems = []
    for quote in quotes_of(documents.get("docs/troubleshooting.md", "")):
        if quote not in program:
            problems.append(f"docs/troubleshooting.md: the program never says '{quote}'")
    known = metric_names(documents.get("docs/metrics.md", ""))
    for path, text in documents.items():
        for name in sorted(metric_names(text) - known):
            if not any(name.removesuffix(suffix) in known for suffix in SPELLED_ELSEWHERE):
                problems.append(f"{path}: docs/metrics.md has no metric {name}")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            if not exists(os.path.normpath(os.path.join(os.path.dirname(path), target))):
                problems.append(f"{path}: the link to {target} leads nowhere")
    return problems


def check(root):
    documents = {}
    for path in ["README.md", "ARCHITECTURE.md", "HACKING.md"] + sorted(
            f"docs/{name}" for name in os.listdir(os.path.join(root, "docs")) if name.endswith(".md")):
        documents[path] = read(os.path.join(root, path))
    return problems_of(documents, program_text(root), lambda path: os.path.exists(os.path.join(root, path)))


def self_test():
    metrics = "| `outrider_a_seconds` |"
    said = 'Error("the queue is "\n      "full: ", n)'
    good = {"docs/troubleshooting.md": "| it says | because |\n|---|---|\n| `the queue is full` | - |\n\n"
                                       "| what |\n|---|\n| `else` |\n",
            "docs/metrics.md": metrics,
            "docs/x.md": "`outrider_a_seconds_bucket` [m](metrics.md#a) [w](https://x.y)"}
    assert problems_of(good, strings_of(said), lambda path: path == "docs/metrics.md") == []
    faults = {"docs/troubleshooting.md": "| it says |\n|---|\n| `the queue is empty` |\n",
              "docs/x.md": "`outrider_b_total`",
              "docs/y.md": "[m](metric.md)"}
    for path, text in faults.items():
        found = problems_of({**good, path: text}, strings_of(said), lambda path: path == "docs/metrics.md")
        assert len(found) == 1, (path, found)


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    problems = check(sys.argv[1])
    print(*problems, sep="\n")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
