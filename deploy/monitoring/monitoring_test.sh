#!/usr/bin/env bash
# Rules hold what their unit tests say, dashboards are those of dashboards.py, the operator has the same rules, and each alert has an entry in the runbook.
set -euo pipefail
fail() { printf 'monitoring_test: %s\n' "$*" >&2; exit 1; }

tools=$(dirname "$(readlink -f WORKSPACE)")/.cache/tools
promtool=$tools/bin/promtool
[ -x "$promtool" ] || fail "$promtool is not there: run deploy/setup.sh tools"
cd deploy/monitoring
rules=$TEST_TMPDIR/rules
mkdir -p "$rules" "$TEST_TMPDIR/dashboards"
cp rules/*.yml "$rules/"
"$promtool" check rules "$rules"/*.yml
"$promtool" check config --syntax-only prometheus.yml
python3 rules_test.py rules "$rules/test.yml"
"$promtool" test rules "$rules/test.yml"
# The test is tested: a threshold that no fault reaches must fail it.
sed 's/outrider:request_errors:ratio_rate5m > 0.05/outrider:request_errors:ratio_rate5m > 0.9/' rules/alerts.yml > "$rules/alerts.yml"
if "$promtool" test rules "$rules/test.yml" > /dev/null 2>&1; then fail "an alert that does not fire goes unnoticed"; fi

python3 dashboards.py "$TEST_TMPDIR/dashboards"
diff -r "$TEST_TMPDIR/dashboards" dashboards || fail "dashboards/ is out of date: run deploy/monitoring/dashboards.py"
python3 prometheus_rule.py "$TEST_TMPDIR/prometheus-rule.yaml"
diff "$TEST_TMPDIR/prometheus-rule.yaml" prometheus-rule.yaml || fail "prometheus-rule.yaml is out of date: run deploy/monitoring/prometheus_rule.py"

runbook=../../docs/RUNBOOK.md
# Prints what has no entry, and entries of no alert.
compare() {
  diff <(grep -oE 'alert: \w+' "$1" | cut -d' ' -f2 | sort) <(grep -oE '^## Outrider\w+' "$2" | cut -d' ' -f2 | sort)
}
compare rules/alerts.yml "$runbook" || fail "alerts and docs/RUNBOOK.md differ"
grep -v '^## OutriderHighTTFT' "$runbook" > "$TEST_TMPDIR/runbook.md"
if compare rules/alerts.yml "$TEST_TMPDIR/runbook.md" > /dev/null; then fail "a missing entry goes unnoticed"; fi
grep -oE 'runbook_url: .*' rules/alerts.yml | cut -d'#' -f2 | while read -r anchor; do
  grep -qi "^## $anchor$" "$runbook" || fail "no heading for #$anchor in docs/RUNBOOK.md"
done
