#!/usr/bin/env python3
"""Writes prometheus-rule.yaml, the rules as the Prometheus operator takes them. Usage: prometheus_rule.py [OUT]"""

import os
import sys

import yaml

HERE = os.path.dirname(os.path.abspath(__file__))


def main(out):
    groups = []
    for name in ("recording", "alerts"):
        with open(os.path.join(HERE, "rules", f"{name}.yml")) as file:
            groups += yaml.safe_load(file)["groups"]
    with open(out, "w") as file:
        file.write("# Made from rules/ by prometheus_rule.py.\n")
        yaml.safe_dump({"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule",
                        "metadata": {"name": "outrider", "labels": {"app.kubernetes.io/name": "outrider"}},
                        "spec": {"groups": groups}}, file, sort_keys=False, width=120)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "prometheus-rule.yaml"))
