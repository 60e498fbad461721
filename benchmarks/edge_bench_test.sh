#!/bin/bash
# edge_bench runs whole, loses no stream and no request, and says so in both forms. Its times decide nothing here.
set -eu
program=$(realpath "$1")
cd "${TEST_TMPDIR:-$(mktemp -d)}"

fail() {
  echo "FAILED: $1"
  exit 1
}

"$program" --rounds 1 --seconds 1 --rate 40 --streams 12 --stream-seconds 1 --readers 2 --json > report.json
python3 - <<'PYTHON'
import json

report = json.load(open("report.json", encoding="utf-8"))
figures = {figure["name"]: figure for figure in report["figures"]}
for name in ("first message: router, gRPC / bare, p50", "first message: router, HTTP / bare, p50",
             "first message: router, gRPC, p99, logging / not", "12 streams: HTTP, gap between tokens, p99",
             "12 streams: gRPC, a connection each, router's memory a stream",
             "slow readers: others, p99, beside slow readers / beside readers",
             "metrics: /metrics with 32 groups and 8 draft workers, p50"):
    assert figures[name]["median"] >= 0, name
lost = [name for name, figure in figures.items() if name.endswith("streams lost") and figure["most"] != 0]
assert not lost, lost
assert not [note for note in report["notes"] if "failed" in note], report["notes"]
PYTHON
"$program" --cases metrics --rounds 1 | grep -q '^metrics: /metrics with 32 groups' || fail "no table"
"$program" --help | grep -q -- --stream-seconds || fail "no help"
if "$program" --cases nothing 2> error.txt; then fail "a case that there is not was taken"; fi
grep -q "there is no case 'nothing'" error.txt || fail "$(cat error.txt)"
