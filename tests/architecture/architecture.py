"""The dependency rules and the tidiness rules of ARCHITECTURE.md, checked over every source file of the tree.

architecture.py ROOT           prints each violation as file:line: rule; exits 1 if there are any
architecture.py --self-test    plants one violation of each rule and sees that each is found
"""

import os
import re
import sys
import tempfile

SOURCE = (".h", ".cc", ".cu", ".cuh")
ROOMS = ("base", "bazel", "cli", "deploy", "kernels", "proto", "router", "security", "tests", "text",
         "tracing", "worker")

# Who may include whom, room by room (a room's own folder is always allowed). Tests may include more: see _is_test.
ALLOWED = {
    "base": set(),
    "kernels": set(),
    "text": {"base"},
    "proto": set(),
    "security": {"base"},
    "tracing": {"base", "proto", "security"},
    "router": {"base", "proto", "security", "text", "tracing"},
    "worker/sequence": {"base", "worker/step"},
    "worker/step": {"base", "worker/sequence"},
    "worker/kvcache": {"base", "worker/sequence"},
    "worker/scheduler": {"base", "worker/step", "worker/kvcache", "worker/sequence", "worker/speculation"},
    "worker/speculation": {"base", "worker/step", "worker/sequence", "worker/scheduler"},
    "worker/parallel": {"base"},
    "worker/group": {"base", "proto", "worker/step", "worker/sequence", "worker/parallel"},
    "worker/model": {"base", "kernels", "text", "worker/step", "worker/sequence", "worker/parallel", "worker/sampling"},
    "worker/sampling": {"base", "kernels", "worker/step", "worker/sequence", "worker/model"},
    "worker/engine": {"base", "tracing", "worker/step", "worker/sequence", "worker/scheduler", "worker/kvcache",
                      "worker/speculation", "worker/model", "worker/parallel", "worker/group", "worker/sampling"},
    "worker/rpc": {"base", "proto", "security", "text", "worker"},
    "worker": {"base", "proto", "security", "text", "tracing", "worker", "kernels"},
    "cli": {"base", "proto", "router", "security", "tracing", "worker", "text", "kernels"},
}

# Rooms and files that decide: no threads, clocks, wires or devices, however indirectly.
PURE_ROOMS = ("worker/sequence", "worker/step", "worker/kvcache", "worker/scheduler", "worker/speculation")
PURE_FILES = (
    "router/admission_controller", "router/worker_registry", "router/failure_detector", "router/cluster_snapshot",
    "router/generate_relay", "router/request", "router/request_validation",
    "router/routing_policy", "router/least_loaded_policy", "router/draft_pairing_policy", "router/retry_policy",
    "router/request_lifecycle", "router/dispatch_queue", "router/route_request", "router/retry_after",
    "router/retry_budget", "router/service_rate", "router/quarantine", "router/prefix_index",
    "router/prefix_affinity_policy",
    "worker/engine/draft_sequence", "worker/group/group_membership", "cli/cluster_plan", "cli/restart_policy",
    "cli/child_watch", "cli/metrics_merge", "cli/flag_translation", "cli/arrival_process",
    "cli/bench_statistics", "cli/bench_report", "cli/metrics_page", "cli/cluster_view", "cli/command_tree",
    "cli/completion_script", "cli/man_page", "cli/host_diagnosis",
    "base/trace_context", "tracing/export_policy", "tracing/otlp_endpoint",
    "router/request_trace",
)
IMPURE_INCLUDE = re.compile(r"grpc|google/protobuf|\.pb\.h|cuda|nccl|^(thread|mutex|condition_variable|future)$|"
                            r"absl/time/clock\.h|absl/synchronization|prometheus/|^sys/|^unistd\.h$|^fcntl\.h$")
IMPURE_CODE = re.compile(r"absl::Now\(|_clock::now\(|std::random_device|\brand\(\)")

# Headers of a library and the only places that may include them.
ONLY_IN = (
    (re.compile(r"^boost/"), re.compile(r"^(router/http/http_(connection|server|tls_test)|security/tls_context|cli/http_client)\.(h|cc)$")),
    (re.compile(r"^prometheus/"), re.compile(r"^base/metrics\.cc$")),
    (re.compile(r"^nccl\.h$"), re.compile(r"^worker/parallel/nccl_communicator\.cc$")),
    (re.compile(r"^yaml-cpp/"), re.compile(r"^cli/")),
    (re.compile(r"^CLI/"), re.compile(r"^cli/")),
    (re.compile(r"^(pcre2|utf8proc)\.h$"), re.compile(r"^text/")),
    (re.compile(r"^histedit\.h$"), re.compile(r"^cli/line_editor\.cc$")),
    (re.compile(r"^hwy/"), re.compile(r"^kernels/")),
    (re.compile(r"\.grpc\.pb\.h$"),
     re.compile(r"^(router|tracing|worker/rpc|cli|tests)/|^worker/[a-z_]*_main\.cc$")),
    (re.compile(r"^openssl/"), re.compile(r"^security/")),
    (re.compile(r"^grpcpp/"),
     re.compile(r"^(router|security|tracing|worker/rpc|cli|tests)/|^worker/[a-z_]*_main\.cc$")),
)
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
BANNED_WORDS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
MAX_LINE = 120


def _is_test(path):
    return (path.endswith("_test.cc") or path.endswith("_bench.cc") or "/testing/" in path or
            path.startswith("tests/") or "testing" in os.path.basename(path))


def _room(path):
    folder = os.path.dirname(path)
    while folder and folder not in ALLOWED:
        folder = os.path.dirname(folder)
    return folder


def _is_pure(path):
    stem = os.path.splitext(path)[0]
    return _room(path) in PURE_ROOMS or stem in PURE_FILES


def _read_tree(root):
    files = {}
    for room in ROOMS:
        for folder, names, leaves in os.walk(os.path.join(root, room)):
            names.sort()
            for leaf in sorted(leaves):
                if leaf.endswith(SOURCE):
                    path = os.path.relpath(os.path.join(folder, leaf), root)
                    with open(os.path.join(root, path), encoding="utf-8") as source:
                        files[path] = source.read().split("\n")
    return files


def _includes(lines):
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if match:
            yield number, match.group(2)


def _check_room(path, lines, violations):
    room = _room(path)
    if not room or _is_test(path):
        return
    allowed = ALLOWED[room]
    for number, include in _includes(lines):
        top = include.split("/")[0]
        if top not in ROOMS or "/" not in include:
            continue
        target = _room(include)
        if target == room or any(target == a or target.startswith(a + "/") for a in allowed):
            continue
        violations.append((path, number, "room %s may not include %s" % (room, include)))


def _check_libraries(path, lines, violations):
    for number, include in _includes(lines):
        if room_of_kernels(path) and re.match(r"absl/|google/|grpc|prometheus/|worker/|base/", include):
            violations.append((path, number, "kernels know only themselves and Highway, not %s" % include))
        for header, place in ONLY_IN:
            if header.search(include) and not place.search(path) and not _is_test(path):
                violations.append((path, number, "%s may be included only in %s" % (include, place.pattern)))


def room_of_kernels(path):
    return path.startswith("kernels/") and not _is_test(path)


def _check_pure(files, violations):
    """A pure file reaches nothing impure through the headers of this tree."""
    for path in files:
        if not _is_pure(path) or _is_test(path):
            continue
        seen, queue = {path}, [path]
        while queue:
            current = queue.pop()
            for number, include in _includes(files[current]):
                if IMPURE_INCLUDE.search(include):
                    violations.append((current, number, "pure %s reaches %s" % (path, include)))
                elif include in files and include not in seen:
                    seen.add(include)
                    queue.append(include)
        for number, line in enumerate(files[path], 1):
            if IMPURE_CODE.search(line):
                violations.append((path, number, "pure files get time and chance as arguments"))


def _check_tidy(path, lines, violations):
    # Highway includes an -inl.h once a target, so those have no guard.
    if path.endswith((".h", ".cuh")) and not path.endswith("-inl.h") and not any(line.strip() == "#pragma once" for line in lines):
        violations.append((path, 1, "a header says #pragma once"))
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE and "http" not in line:
            violations.append((path, number, "line longer than %d" % MAX_LINE))
        if BANNED_WORDS.search(line):
            violations.append((path, number, "a reminder without an issue; file one or finish it"))
        if re.match(r"\s*using namespace ", line) and "literals" not in line:
            violations.append((path, number, "no using namespace"))
        if re.search(r"\bgetenv\(", line) and not path.startswith("cli/") and not _is_test(path):
            violations.append((path, number, "flags and environment are read only in cli"))
        if re.search(r"__global__|<<<", line) and not path.startswith("kernels/") and "probe" not in path:
            violations.append((path, number, "device code lives under kernels"))


def check(root):
    files = _read_tree(root)
    violations = []
    for path, lines in files.items():
        _check_room(path, lines, violations)
        _check_libraries(path, lines, violations)
        _check_tidy(path, lines, violations)
    _check_pure(files, violations)
    return files, sorted(set(violations))


PLANTED = (
    ("router/a.cc", '#include "worker/engine/inbox.h"\n', "may not include"),
    ("worker/engine/a.cc", '#include "router/relay.h"\n', "may not include"),
    ("worker/scheduler/a.cc", '#include "worker/model/ops.h"\n', "may not include"),
    ("kernels/norm/a.cc", '#include "absl/status/status.h"\n', "kernels know only"),
    ("worker/scheduler/a.h", "#pragma once\n#include <mutex>\n", "reaches mutex"),
    ("worker/step/a.h", '#pragma once\n#include "base/b.h"\n', "reaches thread"),
    ("worker/kvcache/a.cc", "auto t = std::chrono::steady_clock::now();\n", "time and chance"),
    ("worker/engine/b.cc", "#include <prometheus/counter.h>\n", "only in"),
    ("worker/engine/c.cc", "#include <grpcpp/grpcpp.h>\n", "only in"),
    ("text/a.h", "int x;\n", "#pragma once"),
    ("text/b.cc", "// " + "x" * 130 + "\n", "line longer"),
    ("text/c.cc", "// TO" + "DO: later\n", "reminder"),
    ("text/d.cc", "using namespace std;\n", "no using namespace"),
    ("router/e.cc", 'auto v = std::getenv("X");\n', "only in cli"),
    ("worker/model/f.cc", "__glo" + "bal__ void f();\n", "under kernels"),
)


def self_test():
    for path, text, expected in PLANTED:
        with tempfile.TemporaryDirectory() as root:
            for name, content in ((path, text), ("base/b.h", "#pragma once\n#include <thread>\n")):
                os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
                with open(os.path.join(root, name), "w", encoding="utf-8") as out:
                    out.write(content)
            _, violations = check(root)
            if not any(expected in rule for _, _, rule in violations):
                sys.exit("planted violation not found: %s (%s)" % (path, expected))
    print("%d planted violations, all found" % len(PLANTED))


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return
    files, violations = check(sys.argv[1])
    if len(files) < 20:
        sys.exit("only %d source files found under %s" % (len(files), sys.argv[1]))
    for path, number, rule in violations:
        print("%s:%d: %s" % (path, number, rule))
    if violations:
        sys.exit("%d violations" % len(violations))
    print("%d files keep the rules" % len(files))


if __name__ == "__main__":
    main()
