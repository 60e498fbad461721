"""Everything that dashboards, rules and docs/metrics.md say of metrics, against the pages of a live cluster.

Runs a cluster of two ranks and a draft worker, both of the small model that comes with the project. With --update it
writes docs/metrics.md anew.
"""

import contextlib
import glob
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request

import exposition

ROOT = os.path.dirname(os.path.realpath("WORKSPACE"))
PROMTOOL = os.path.join(ROOT, ".cache/tools/bin/promtool")
MODEL = "deploy/models/smollm2-135m-draft-16m-q8_0.gguf"
RULES = sorted(glob.glob("deploy/monitoring/rules/*.yml"))
DASHBOARDS = sorted(glob.glob("deploy/monitoring/dashboards/*.json"))
BOUND_S = 60
REFERENCE_HEAD = """# Metrics

Made from the pages of a live cluster by `bazel run //deploy/monitoring:live_metrics_test -- --update`; a test says when it is out of date.
What to ask of them: [monitoring.md](monitoring.md). All but `process_*` begin with `outrider_`; a histogram also has `_bucket{le}`, `_sum`
and `_count`. The router shows the router's and `outrider_group_*`, a target group's leader the engine's, ranks above 0 `outrider_rank_step_seconds`,
a draft worker `outrider_drafter_*`, `outrider serve` all of them with the labels `process`, `group` and `rank`.

"""


@contextlib.contextmanager
def cluster(*more):
    """The address of gRPC and of the metrics of a running cluster."""
    command = ["./outrider", "serve", MODEL, "--draft-model", MODEL, "-t", "2", "--threads", "2", "--grpc-port", "0",
               "--metrics-port", "0", "--http-port", "0", "--max-model-len", "512", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        # Never in the way of the test's own bound.
        watch = threading.Timer(4 * BOUND_S, process.kill)
        watch.start()
        try:
            line = process.stdout.readline()
            ready = re.match(r"ready grpc=(\S+) metrics=(\S+)", line)
            assert ready, f"the cluster did not start; it said {line!r}"
            yield ready.groups()
        finally:
            process.terminate()
            process.wait()
            watch.cancel()


def page_of(metrics):
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as response:
        return response.read().decode()


def generate(grpc):
    subprocess.run(["./outrider", "generate", "--address", grpc, "--prompt", "Once upon a time", "--max-tokens", "64",
                    "--temperature", "0", "--ignore-eos"], check=True, stdout=subprocess.DEVNULL)


def page_with_heartbeats(metrics):
    """The page once the router was told of the work that was done."""
    deadline = time.monotonic() + BOUND_S
    while True:
        page = page_of(metrics)
        rounds = re.search(r"^outrider_group_draft_rounds_total\{.*\} (\S+)$", page, re.M)
        up = re.findall(r"^outrider_process_up\{.*\} (\S+)$", page, re.M)
        if rounds and float(rounds.group(1)) > 0 and set(up) == {"1"}:
            return page
        assert time.monotonic() < deadline, f"no draft was verified, or a process is not up, in {BOUND_S} s:\n{page}"
        time.sleep(0.1)


def native(page):
    return "".join(line + "\n" for line in page.splitlines() if not re.match(r"(# (HELP|TYPE) )?vllm:", line))


def promtool_check(page):
    assert os.path.exists(PROMTOOL), f"{PROMTOOL} is not there: run deploy/setup.sh tools"
    return subprocess.run([PROMTOOL, "check", "metrics"], input=page, text=True, capture_output=True, check=False)


def check_native_is_clean(page):
    result = promtool_check(native(page))
    assert result.returncode == 0, f"promtool: {result.stdout}{result.stderr}"
    planted = promtool_check(native(page) + "# TYPE outrider_planted counter\noutrider_planted 1\n")
    assert planted.returncode != 0, "promtool lets a counter without _total pass"


def check_all_is_exported(families):
    asked, recorded = exposition.expressions(RULES, DASHBOARDS)
    assert len(asked) > 50, f"only {len(asked)} expressions were found"
    problems = exposition.missing(asked, recorded, families)
    assert not problems, "\n".join(problems)
    # The check itself is checked.
    faults = {"sum(rate(outrider_no_such_total[5m]))": "outrider_no_such_total is not exported",
              'outrider_requests_total{no_such="x"}': "outrider_requests_total has no label no_such",
              "outrider_step_seconds_buckets > 0": "outrider_step_seconds_buckets is not exported",
              "outrider:no_such:rate5m": "outrider:no_such:rate5m is not exported", "1 > 0": "asks for nothing"}
    for expr, problem in faults.items():
        found = exposition.missing([("planted", expr)], recorded, families)
        assert found == [f"planted: {problem}"], f"{expr}: found {found}"


def check_reference(families, update):
    ours = {name: family for name, family in families.items() if not name.startswith("vllm:")}
    text = REFERENCE_HEAD + exposition.reference(ours)
    path = os.path.join(ROOT, "docs/metrics.md")
    if update:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return
    with open(path, encoding="utf-8") as file:
        there = set(file.read().splitlines())
    lines = set(text.splitlines())
    differences = [f"- {line}" for line in sorted(there - lines)] + [f"+ {line}" for line in sorted(lines - there)]
    assert not differences, ("docs/metrics.md is out of date: bazel run //deploy/monitoring:live_metrics_test -- --update\n"
                             + "\n".join(differences))


def check_aliases(page):
    def value(name):
        found = re.search(rf"^{name}{{.*}} (\S+)$", page, re.M)
        assert found, f"{name} is not on the page"
        return float(found.group(1))

    # One request of 64 tokens, and what was drafted for it.
    assert value("vllm:generation_tokens_total") == 64
    assert 0 < value("vllm:spec_decode_num_accepted_tokens_total") <= value("vllm:spec_decode_num_draft_tokens_total")
    assert value("vllm:spec_decode_num_drafts_total") > 0
    assert value("vllm:time_to_first_token_seconds_count") == 1
    assert value("vllm:iteration_tokens_total_sum") > 64


def main(update):
    with cluster() as (grpc, metrics):
        generate(grpc)
        page = page_with_heartbeats(metrics)
    families = exposition.parse_page(page)
    check_reference(families, update)
    check_native_is_clean(page)
    check_all_is_exported(families)
    check_aliases(page)
    with cluster("--metrics-compat", "none") as (grpc, metrics):
        generate(grpc)
        assert "vllm:" not in page_with_heartbeats(metrics)
    print(f"{len(families)} families, all that is asked for is exported")


if __name__ == "__main__":
    main("--update" in sys.argv[1:])
