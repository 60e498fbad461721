"""What a page of metrics shows, and what dashboards and rules ask for."""

import json
import re

import yaml

# Prometheus makes these itself.
BUILT_IN = {"up", "ALERTS"}
# Scrapers put these on series (deploy/kubernetes/monitoring, compose's prometheus.yml), or `outrider serve` does.
TARGET_LABELS = {"namespace", "job", "instance", "group", "rank", "process"}
KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
SELECTOR = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{[^}]*\})?')


def parse_page(text):
    """By family: {"type", "help", "labels": names of labels}. A histogram's samples are its family's."""
    families = {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, help_text = line[7:].partition(" ")
            families.setdefault(name, {"type": "untyped", "help": "", "labels": set()})["help"] = help_text
        elif line.startswith("# TYPE "):
            name, _, kind = line[7:].partition(" ")
            families.setdefault(name, {"type": kind, "help": "", "labels": set()})["type"] = kind
        elif line and not line.startswith("#"):
            name = re.split(r"[{ ]", line, maxsplit=1)[0]
            family = family_of(name, families)
            if family is None:
                raise ValueError(f"{name} has no TYPE")
            families[family]["labels"] |= set(re.findall(r'([a-zA-Z_][a-zA-Z0-9_]*)="', line))
    return families


def family_of(name, families):
    for suffix in ("", "_bucket", "_sum", "_count"):
        family = name.removesuffix(suffix)
        if name.endswith(suffix) and family in families and (not suffix or families[family]["type"] == "histogram"):
            return family
    return None


def selectors(expr):
    """The metrics of a PromQL expression, each with the names of the labels it is asked by."""
    expr = re.sub(r'\[[^\]]*\]', "", expr)
    expr = re.sub(r'\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)', " ", expr)
    expr = re.sub(r'\b(group_left|group_right)\b', " ", expr)
    found = []
    for match in SELECTOR.finditer(re.sub(r'"[^"]*"', '""', expr)):
        name, labels = match.groups()
        rest = re.sub(r'"[^"]*"', '""', expr)[match.end():].lstrip()
        before = re.sub(r'"[^"]*"', '""', expr)[:match.start()]
        if rest.startswith("(") or name.lower() in KEYWORDS or re.search(r'[0-9.$]$', before):
            continue
        found.append((name, set(re.findall(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)', labels or ""))))
    return found


def expressions(rule_files, dashboard_files):
    """(where, expression) of all rules and panels, and the names that recording rules make."""
    asked, recorded = [], set()
    for path in rule_files:
        with open(path) as file:
            for group in yaml.safe_load(file)["groups"]:
                for rule in group["rules"]:
                    asked.append((f"{path}: {rule.get('alert') or rule.get('record')}", rule["expr"]))
                    if "record" in rule:
                        recorded.add(rule["record"])
    for path in dashboard_files:
        with open(path) as file:
            dashboard = json.load(file)
        for panel in dashboard["panels"]:
            asked += [(f"{path}: {panel['title']}", target["expr"]) for target in panel.get("targets", [])]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                metric = re.match(r"label_values\(([^,]+),", variable["query"]).group(1)
                asked.append((f"{path}: variable {variable['name']}", metric))
    return asked, recorded


def missing(asked, recorded, families):
    """A line for each metric, or label of one, that is asked for and not there."""
    problems = []
    for where, expr in asked:
        names = selectors(expr)
        if not names:
            problems.append(f"{where}: asks for nothing")
        for name, labels in names:
            if name in BUILT_IN or name in recorded:
                continue
            family = family_of(name, families)
            if family is None:
                problems.append(f"{where}: {name} is not exported")
                continue
            for label in sorted(labels - TARGET_LABELS - families[family]["labels"]):
                problems.append(f"{where}: {name} has no label {label}")
    return problems


def reference(families):
    """The metrics reference as Markdown: a table of `families`, without the labels that `outrider serve` adds."""
    lines = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for name in sorted(families):
        family = families[name]
        added = set() if name.startswith("outrider_process_up") else {"process"}
        if not name.startswith(("outrider_group_", "outrider_rank_last", "outrider_rank_silence")):
            added |= {"group", "rank"}
        labels = ", ".join(f"`{label}`" for label in sorted(family["labels"] - added - {"le"}))
        lines.append(f"| `{name}` | {family['type']} | {labels} | {family['help']} |")
    return "\n".join(lines) + "\n"
