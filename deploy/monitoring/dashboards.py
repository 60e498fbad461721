#!/usr/bin/env python3
"""Writes the Grafana dashboards of dashboards/ from the panels below. Usage: dashboards.py [FOLDER]; checked by dashboards_test."""

import json
import os
import sys

CLUSTER = 'namespace=~"$namespace"'
GROUP = CLUSTER + ', group=~"$group"'


def rate(metric, by="", labels=CLUSTER):
    return f'sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))' if by else \
        f'sum(rate({metric}{{{labels}}}[$__rate_interval]))'


def quantiles(metric, labels=CLUSTER):
    """p99, p95, p90, p50 and the mean, as vLLM's dashboard has them."""
    lines = [(f'histogram_quantile({q}, sum by (le) (rate({metric}_bucket{{{labels}}}[$__rate_interval])))', f'P{int(q * 100)}')
             for q in (0.99, 0.95, 0.9, 0.5)]
    return lines + [(f'{rate(metric + "_sum", labels=labels)} / {rate(metric + "_count", labels=labels)}', 'mean')]


def panel(title, unit, targets, about, kind="timeseries"):
    return {"title": title, "unit": unit, "targets": targets, "about": about, "kind": kind}


def heatmap(title, unit, metric, about):
    expr = f'sum by (le) (increase({metric}_bucket{{{CLUSTER}}}[$__rate_interval]))'
    return panel(title, unit, [(expr, "{{le}}")], about, "heatmap")


OVERVIEW = [
    ("Service", [
        panel("Groups that serve", "short", [(f'max(outrider_groups_serving{{{CLUSTER}}})', "serving"),
                                             (f'max(outrider_groups{{{CLUSTER}}})', "registered"),
                                             (f'max(outrider_draft_workers{{{CLUSTER}}})', "draft workers")],
              "Target groups that take requests, all that are registered, and draft workers.", "stat"),
        panel("Failed requests", "percentunit", [(f'outrider:request_errors:ratio_rate5m{{{CLUSTER}}}', "failed")],
              "Of requests that were neither invalid nor left by their client. Alert above 5 %."),
        panel("First token within 2.5 s", "percentunit",
              [(f'outrider:time_to_first_token_within_target:ratio_rate5m{{{CLUSTER}}}', "within 2.5 s")],
              "Goodput. Alert below 90 %."),
        panel("E2E request latency", "s", quantiles("outrider_request_seconds"), "Requests that ended ok."),
        panel("Token throughput", "short", [(rate("outrider_prompt_tokens_total"), "prompt"),
                                            (rate("outrider_output_tokens_total"), "generation")], "Tokens a second."),
        panel("Time per output token", "s", quantiles("outrider_inter_token_seconds"), "Between tokens, as clients get them."),
        panel("Scheduler state", "short", [(f'sum(outrider_group_sequences_running{{{CLUSTER}}})', "running"),
                                           (f'sum(outrider_group_sequences_waiting{{{CLUSTER}}})', "waiting in groups"),
                                           (f'sum(outrider_requests_waiting{{{CLUSTER}}})', "waiting in the router")],
              "Sequences and requests."),
        panel("Time to first token", "s", quantiles("outrider_time_to_first_token_seconds"), "From arrival in the router."),
        panel("Cache utilization", "percentunit", [(f'outrider_group_kv_cache_used_ratio{{{CLUSTER}}}', "{{group}}")],
              "KV blocks of live sequences. Alert above 95 %."),
    ]),
    ("Requests", [
        heatmap("Request prompt length", "short", "outrider_choice_prompt_tokens", "Prompt tokens of finished choices."),
        heatmap("Request generation length", "short", "outrider_choice_output_tokens", "Output tokens of finished choices."),
        panel("Finish reason", "short", [(rate("outrider_choices_total", "reason"), "{{reason}}")], "Choices a second."),
        panel("Outcome", "short", [(rate("outrider_requests_total", "outcome"), "{{outcome}}")], "Requests a second."),
        panel("Queue time", "s", quantiles("outrider_request_queue_seconds"), "In the router."),
        panel("Prefill and decode time", "s", [
            (f'{rate("outrider_choice_prefill_seconds_sum")} / {rate("outrider_choice_prefill_seconds_count")}', "prefill"),
            (f'{rate("outrider_choice_decode_seconds_sum")} / {rate("outrider_choice_decode_seconds_count")}', "decode")],
            "Mean of finished choices."),
        panel("Max generation token", "short", quantiles("outrider_choice_max_tokens"), "What requests allowed."),
        panel("Recovery", "short", [(rate("outrider_attempts_lost_total"), "attempts lost"),
                                    (rate("outrider_attempts_replayed_total"), "replayed"),
                                    (rate("outrider_attempts_handed_over_total"), "handed over"),
                                    (rate("outrider_streams_cut_total"), "streams cut")],
              "What clients do not notice: attempts a second that went on elsewhere."),
        panel("Restarts of groups", "short",
              [(f'sum by (group) (increase(outrider_group_restarts_total{{{CLUSTER}}}[15m]))', "{{group}}")],
              "In 15 minutes. Alert above 2."),
    ]),
]

ENGINE = [
    ("Steps", [
        panel("Step time by kind", "s", [(
            f'histogram_quantile(0.95, sum by (le, kind) (rate(outrider_step_seconds_bucket{{{GROUP}}}[$__rate_interval])))',
            "P95 {{kind}}")], "prompt: computes prompt tokens; decode: one token a row; verify: drafts too."),
        panel("Positions a step", "short", quantiles("outrider_step_positions", GROUP), "Over all rows."),
        panel("Steps and positions", "short", [(rate("outrider_steps_total", labels=GROUP), "steps"),
                                               (rate("outrider_step_tokens_total", labels=GROUP), "positions"),
                                               (rate("outrider_committed_tokens_total", labels=GROUP), "tokens committed")],
              "A second."),
        panel("Step time of follower ranks", "s", quantiles("outrider_rank_step_seconds", GROUP), "Ranks above 0."),
        panel("Ranks that lag", "short", [(
            f'max by (group) (outrider_rank_last_step{{{GROUP}}}) - min by (group) (outrider_rank_last_step{{{GROUP}}})',
            "{{group}}")], "Steps between the first and the last rank."),
        panel("Silence of ranks", "s", [(f'outrider_rank_silence_seconds{{{GROUP}}}', "rank {{rank}}")],
              "A rank that is silent for 2 s ends its group."),
    ]),
    ("Memory and queue", [
        panel("KV cache", "percentunit", [(f'outrider_kv_cache_used_ratio{{{GROUP}}}', "live {{group}}"),
                                          (f'outrider_kv_cache_cached_ratio{{{GROUP}}}', "prefix cache {{group}}")],
              "Blocks of live sequences, and those the prefix cache knows."),
        panel("Prefix cache hits", "percentunit", [(
            f'{rate("outrider_choices_cached_tokens_total")} / {rate("outrider_choices_prompt_tokens_total")}', "hits")],
            "Prompt tokens found, of all."),
        panel("Preemptions", "short", [(rate("outrider_sequences_preempted_total", "group", GROUP), "{{group}}")],
              "Sequences a second paused since blocks ran out."),
        panel("Sequences", "short", [(f'sum by (group) (outrider_sequences_running{{{GROUP}}})', "running {{group}}"),
                                     (f'sum by (group) (outrider_sequences_waiting{{{GROUP}}})', "waiting {{group}}")], ""),
        panel("Queue time in groups", "s", quantiles("outrider_sequence_queue_seconds", GROUP), "From receipt to the first step."),
        panel("Sequences that ended", "short", [(rate("outrider_sequences_total", "outcome", GROUP), "{{outcome}}")], "A second."),
    ]),
    ("Processes", [
        panel("Memory", "bytes", [('process_resident_memory_bytes{%s, job=~".*outrider.*"}' % CLUSTER,
                                   "{{instance}} {{process}}")], "Resident."),
        panel("Processor", "short", [('rate(process_cpu_seconds_total{%s, job=~".*outrider.*"}[$__rate_interval])' % CLUSTER,
                                      "{{instance}} {{process}}")], "Cores in use."),
        panel("Files open", "short", [('process_open_fds{%s, job=~".*outrider.*"}' % CLUSTER, "{{instance}} {{process}}")], ""),
    ]),
]

ACCEPTED = "outrider_draft_tokens_accepted_total"
ROUNDS = "outrider_draft_rounds_total"
SPECULATION = [
    ("What drafts bring", [
        panel("Acceptance rate", "percentunit", [(f'outrider:draft_acceptance:ratio_rate5m{{{GROUP}}}', "{{group}}")],
              "Accepted draft tokens, of those verified. Alert below 30 %."),
        panel("Acceptance length", "short", [(f'outrider:draft_acceptance_length:rate5m{{{GROUP}}}', "{{group}}")],
              "Tokens a round commits, the target's own included."),
        panel("Accepted by position", "percentunit", [(
            f'{rate(ACCEPTED, "position", GROUP)} / ignoring(position) group_left {rate(ROUNDS, labels=GROUP)}',
            "{{position}}")], "Share of rounds whose draft token at that position was accepted."),
        panel("Speedup estimate", "short", [(
            f'(1 + {rate(ACCEPTED, labels=GROUP)} / {rate(ROUNDS, labels=GROUP)}) / (1 + {rate("outrider_draft_wait_seconds_total", labels=GROUP)}'
            f' / {rate("outrider_step_seconds_sum", labels=GROUP)})', "speedup")],
            "Acceptance length over 1 + the share of step time that was waited. Ignores that verifying costs more than decoding."),
        panel("Wasted draft tokens", "short", [(
            f'{rate("outrider_draft_tokens_total", labels=GROUP)} - {rate(ACCEPTED, labels=GROUP)}', "rejected"),
            (rate("outrider_drafter_tokens_total"), "drafted")], "A second: verified and not accepted; computed by draft workers."),
        panel("Lookahead", "short", quantiles("outrider_lookahead_tokens", GROUP), "Draft tokens a decoding row was given room for."),
    ]),
    ("What drafts cost", [
        panel("Draft round trip and verify step", "s", [
            (f'{rate("outrider_draft_round_trip_seconds_total", labels=GROUP)} / {rate("outrider_draft_round_trips_total", labels=GROUP)}',
             "draft round trip"),
            (f'sum(rate(outrider_step_seconds_sum{{{GROUP}, kind="verify"}}[$__rate_interval])) / '
             f'sum(rate(outrider_step_seconds_count{{{GROUP}, kind="verify"}}[$__rate_interval]))', "verify step")],
            "A round trip that is shorter than a step is hidden by it."),
        panel("Hidden share", "percentunit", [(
            f'{rate("outrider_draft_rounds_hidden_total", labels=GROUP)} / {rate(ROUNDS, labels=GROUP)}', "hidden")],
            "Rounds whose draft was there without a wait."),
        panel("Wait for a draft", "s", [(
            f'{rate("outrider_draft_wait_seconds_total", labels=GROUP)} / {rate("outrider_draft_waits_total", labels=GROUP)}',
            "mean wait")], "Of spans that waited."),
        panel("Waits without a draft", "percentunit", [(f'outrider:draft_wait_misses:ratio_rate5m{{{GROUP}}}', "{{group}}")],
              "Alert above 50 %."),
        panel("Drafts asked and answered", "short", [(rate("outrider_draft_requests_total", labels=GROUP), "asked"),
                                                     (rate("outrider_draft_answers_total", labels=GROUP), "answered")], "A second."),
        panel("Proposals dropped", "short", [(rate("outrider_draft_proposals_dropped_total", "reason", GROUP), "{{reason}}")],
              "A second, by reason."),
    ]),
    ("Draft workers", [
        panel("Answer time", "s", quantiles("outrider_drafter_answer_seconds"), "From a commit that asks to the draft."),
        panel("Step time", "s", quantiles("outrider_drafter_step_seconds"), "Of the draft model."),
        panel("Proposals", "short", [(rate("outrider_drafter_proposals_total"), "made"),
                                     (rate("outrider_drafter_proposals_ahead_total"), "before anybody asked")], "A second."),
        panel("Sequences", "short", [(f'outrider_drafter_sequences{{{CLUSTER}}}', "{{instance}} {{process}}")], "Open."),
        panel("KV cache", "percentunit", [(f'outrider_drafter_kv_cache_used_ratio{{{CLUSTER}}}', "{{instance}} {{process}}")], ""),
        panel("Commands dropped", "short", [(rate("outrider_drafter_commands_dropped_total", "reason"), "{{reason}}")],
              "A second, by reason."),
    ]),
]

DASHBOARDS = {
    "overview": ("Outrider / Overview", OVERVIEW),
    "engine": ("Outrider / Engine", ENGINE),
    "speculation": ("Outrider / Speculation", SPECULATION),
}
DATASOURCE = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}


def variable(name, metric):
    return {"name": name, "type": "query", "datasource": DATASOURCE, "query": f"label_values({metric}, {name})",
            "refresh": 2, "includeAll": True, "allValue": ".*", "multi": True, "current": {"text": "All", "value": "$__all"}}


def grafana_panel(spec, number, x, y):
    out = {
        "id": number, "type": spec["kind"], "title": spec["title"], "description": spec["about"], "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": 8, "h": 7},
        "fieldConfig": {"defaults": {"unit": spec["unit"], "min": 0}, "overrides": []},
        "targets": [{"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend}
                    for i, (expr, legend) in enumerate(spec["targets"])],
    }
    if spec["kind"] == "heatmap":
        out["targets"][0]["format"] = "heatmap"
        out["options"] = {"calculate": False, "yAxis": {"unit": spec["unit"]}}
    elif spec["kind"] == "timeseries":
        out["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return out


def dashboard(uid, title, rows):
    panels, y = [], 0
    for row, specs in rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        for i, spec in enumerate(specs):
            panels.append(grafana_panel(spec, len(panels) + 1, 8 * (i % 3), y + 1 + 7 * (i // 3)))
        y += 1 + 7 * ((len(specs) + 2) // 3)
    return {
        "uid": f"outrider-{uid}", "title": title, "tags": ["outrider", "llm"], "schemaVersion": 39, "editable": True,
        "refresh": "10s", "time": {"from": "now-30m", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["outrider"], "title": "Outrider", "asDropdown": False}],
        "templating": {"list": [
            {"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
            variable("namespace", "outrider_groups"), variable("group", "outrider_group_info")]},
        "panels": panels,
    }


def main(folder):
    for uid, (title, rows) in DASHBOARDS.items():
        with open(os.path.join(folder, f"{uid}.json"), "w") as file:
            json.dump(dashboard(uid, title, rows), file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "dashboards"))
