#!/usr/bin/env python3
"""Writes the promtool unit tests of rules/alerts.yml: each alert fires in its own case, and none does while all is well.

Usage: rules_test.py RULES_FOLDER OUT.yml
One case an alert: series that make it true for an hour beside a quiet cluster. The quiet cluster alone is a case too.
"""

import sys

import yaml

# A cluster that does well: 3 requests a second, half of all draft tokens accepted. 15 s apart, an hour long.
STEPS = 240
QUIET = {
    'up{job="outrider", instance="a"}': "1x{n}",
    'outrider_groups_serving{namespace="n"}': "2x{n}",
    'outrider_group_restarts_total{namespace="n", group="g"}': "1x{n}",
    'outrider_rank_silence_seconds{namespace="n", group="g", rank="0"}': "0.1x{n}",
    'outrider_requests_total{namespace="n", outcome="ok"}': "0+50x{n}",
    'outrider_requests_total{namespace="n", outcome="unavailable"}': "0+1x{n}",
    'outrider_time_to_first_token_seconds_bucket{namespace="n", le="1"}': "0+49x{n}",
    'outrider_time_to_first_token_seconds_bucket{namespace="n", le="2.5"}': "0+50x{n}",
    'outrider_time_to_first_token_seconds_bucket{namespace="n", le="5"}': "0+50x{n}",
    'outrider_time_to_first_token_seconds_bucket{namespace="n", le="20"}': "0+50x{n}",
    'outrider_time_to_first_token_seconds_bucket{namespace="n", le="+Inf"}': "0+50x{n}",
    'outrider_time_to_first_token_seconds_count{namespace="n"}': "0+50x{n}",
    'outrider_inter_token_seconds_bucket{namespace="n", le="0.05"}': "0+100x{n}",
    'outrider_inter_token_seconds_bucket{namespace="n", le="1"}': "0+100x{n}",
    'outrider_inter_token_seconds_bucket{namespace="n", le="+Inf"}': "0+100x{n}",
    'outrider_requests_waiting{namespace="n"}': "3x{n}",
    'outrider_group_kv_cache_used_ratio{namespace="n", group="g"}': "0.5x{n}",
    'outrider_sequences_preempted_total{namespace="n", group="g"}': "0x{n}",
    'outrider_group_draft_tokens_total{namespace="n", group="g", position="1"}': "0+100x{n}",
    'outrider_group_draft_tokens_accepted_total{namespace="n", group="g", position="1"}': "0+50x{n}",
    'outrider_group_draft_rounds_total{namespace="n", group="g"}': "0+100x{n}",
    'outrider_draft_workers{namespace="n"}': "1x{n}",
    'outrider_draft_waits_total{namespace="n", group="g"}': "0+10x{n}",
    'outrider_draft_wait_misses_total{namespace="n", group="g"}': "0+1x{n}",
    'outrider_requests_quarantined_total{namespace="n"}': "0x{n}",
    'outrider_log_lines_lost_total{namespace="n", job="outrider", instance="a"}': "0x{n}",
    'outrider_request_log_lines_dropped_total{namespace="n", job="outrider", instance="a"}': "0x{n}",
    'outrider_process_crashes_total{namespace="n", instance="a"}': "0x{n}",
}

# Alert: the series that go wrong, and the labels it fires with. No other alert fires beside it.
CASES = {
    "OutriderTargetDown": ({"up{": "0x{n}"}, {"job": "outrider", "instance": "a"}),
    "OutriderModelNotReady": ({"outrider_groups_serving": "0x{n}"}, {"namespace": "n"}),
    "OutriderGroupsMissing": ({"outrider_groups_serving": "2x160 1x{n}"}, {"namespace": "n"}),
    "OutriderGroupRestarts": ({"outrider_group_restarts_total": "1+0.1x{n}"}, {"namespace": "n", "group": "g"}),
    "OutriderRankSilent": ({"outrider_rank_silence": "1.5x{n}"}, {"namespace": "n", "group": "g", "rank": "0"}),
    "OutriderErrorRateHigh": ({'outcome="unavailable"': "0+5x{n}"}, {"namespace": "n"}),
    "OutriderHighTTFT": (
        {'first_token_seconds_bucket{namespace="n", le="1"}': "0+46x{n}",
         'first_token_seconds_bucket{namespace="n", le="2.5"}': "0+46x{n}",
         'first_token_seconds_bucket{namespace="n", le="5"}': "0+46x{n}"}, {"namespace": "n"}),
    "OutriderHighTPOT": ({'le="0.05"': "0+80x{n}"}, {"namespace": "n"}),
    "OutriderGoodputLow": (
        {'first_token_seconds_bucket{namespace="n", le="1"}': "0+44x{n}",
         'first_token_seconds_bucket{namespace="n", le="2.5"}': "0+44x{n}"}, {"namespace": "n"}),
    "OutriderQueueGrowing": ({"outrider_requests_waiting": "10+1x{n}"}, {"namespace": "n"}),
    "OutriderKVCacheNearFull": ({"outrider_group_kv_cache": "0.97x{n}"}, {"namespace": "n", "group": "g"}),
    "OutriderPreemptions": ({"outrider_sequences_preempted": "0+3x{n}"}, {"namespace": "n", "group": "g"}),
    "OutriderAcceptanceCollapsed": ({"draft_tokens_accepted": "0+20x{n}"}, {"namespace": "n", "group": "g"}),
    "OutriderDraftersUnreachable": ({"outrider_draft_workers": "1x160 0x{n}"}, {"namespace": "n"}),
    "OutriderDraftsLate": ({"draft_wait_misses": "0+6x{n}"}, {"namespace": "n", "group": "g"}),
    "OutriderRequestsQuarantined": ({"requests_quarantined": "0x200 1x{n}"}, {"namespace": "n"}),
    "OutriderLogsLost": (
        {"request_log_lines_dropped": "0+1x{n}"}, {"namespace": "n", "job": "outrider", "instance": "a"}),
    "OutriderProcessesCrash": ({"process_crashes": "0+0.1x{n}"}, {"namespace": "n", "instance": "a"}),
}


def series(changes):
    text = dict(QUIET)
    for start, values in changes.items():
        found = [name for name in text if start in name]
        assert len(found) == 1, f"{start!r} is the beginning of {found}"
        text[found[0]] = values
    return [{"series": name, "values": values.format(n=STEPS)} for name, values in text.items()]


def main(rules, out):
    with open(f"{rules}/alerts.yml") as file:
        alerts = {rule["alert"]: rule for group in yaml.safe_load(file)["groups"] for rule in group["rules"]}
    missing = set(alerts) ^ set(CASES)
    assert not missing, f"alerts without a case, or cases without an alert: {sorted(missing)}"

    def case(name, changes, firing):
        # Only names and labels are compared here; summaries hold measured values.
        checks = [{
            "expr": f'ALERTS{{alertstate="firing", alertname="{alert}"}}',
            "eval_time": "59m",
            "exp_samples": [{"labels": "ALERTS{" + ", ".join(
                f'{key}="{value}"' for key, value in sorted({
                    **CASES[alert][1], **rule["labels"], "alertname": alert, "alertstate": "firing"}.items())) + "}",
                "value": 1}] if alert == firing else [],
        } for alert, rule in alerts.items()]
        return {"name": name, "interval": "15s", "input_series": series(changes), "promql_expr_test": checks}

    tests = [case("a cluster that does well", {}, None)]
    tests += [case(name, changes, name) for name, (changes, _) in CASES.items()]
    with open(out, "w") as file:
        yaml.safe_dump({"rule_files": ["recording.yml", "alerts.yml"], "evaluation_interval": "15s", "tests": tests},
                       file, sort_keys=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
