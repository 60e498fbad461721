"""The HTTP API against its own description: schemathesis asks a live server for whatever the document allows and forbids.

openapi_check.py http://HOST:PORT [EXAMPLES]    examples of each operation, 12 unless told; OUTRIDER_TEST_SEED repeats a run

The document must be valid OpenAPI 3.1. Objects of answers and events are held to the fields that it names, no others. That
this finds faults is itself tried, with a document that is wrong.
"""

import collections
import contextlib
import copy
import io
import json
import os
import sys
import tempfile
import urllib.request

import openapi_spec_validator
import schemathesis
import schemathesis.cli

BASE = sys.argv[1]
EXAMPLES = int(sys.argv[2]) if len(sys.argv) > 2 else 12
SEED = int(os.environ.get("OUTRIDER_TEST_SEED", "1"))
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
          "response_headers_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance")
# More than as many entries as are allowed may be more than as many bytes, too.
SETTINGS = """[checks]
negative_data_rejection.expected-statuses = [400, 401, 404, 405, 413, 415, 429]
"""
# Answers seen: by operation, status and whether it was a stream.
SEEN = collections.Counter()


@schemathesis.hook
def after_call(context, case, response):
    is_stream = response.headers.get("content-type", [""])[0].startswith("text/event-stream")
    SEEN[case.operation.label, response.status_code, is_stream] += 1


def close(schema):
    """Lets objects have no other properties than those that are named."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            close(part)
    elif isinstance(schema, list):
        for part in schema:
            close(part)


def references(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"].rpartition("/")[2]
        for part in node.values():
            yield from references(part)
    elif isinstance(node, list):
        for part in node:
            yield from references(part)


def with_answers_closed(document):
    document = copy.deepcopy(document)
    schemas = document["components"]["schemas"]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    asked, new = set(), {name for operation in operations for name in references(operation.get("requestBody"))}
    while new:
        asked |= new
        new = {name for request in new for name in references(schemas[request])} - asked
    for name, schema in schemas.items():
        # An event has other fields than data, as the standard has them; its data is closed by its own schema.
        if name not in asked and not name.endswith("Event"):
            close(schema)
    return document


def run(document, *more):
    """True if schemathesis finds nothing."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(document, file)
        file.flush()
        try:
            return not schemathesis.cli.schemathesis.main(
                ["run", file.name, "--url", BASE, "--checks", ",".join(CHECKS), "--seed", str(SEED), "--continue-on-failure",
                 "--phases", "examples,coverage,fuzzing", "--no-color", "--request-timeout", "60", *more],
                standalone_mode=False)
        except SystemExit as end:
            return not end.code


def main():
    print(f"seed {SEED}, {EXAMPLES} examples of each operation", flush=True)
    with urllib.request.urlopen(BASE + "/openapi.json", timeout=60) as answer:
        document = json.load(answer)
    openapi_spec_validator.validate(document)
    closed = with_answers_closed(document)
    with urllib.request.urlopen(BASE + "/v1/models", timeout=60) as answer:
        model = json.load(answer)["data"][0]["id"]
    # Any other is answered with 404, and no further way into the API.
    closed["components"]["schemas"]["ModelName"] = {"enum": [model, "", None]}

    wrong = copy.deepcopy(closed)
    del wrong["paths"]["/detokenize"]["post"]["responses"]["400"]
    wrong["components"]["schemas"]["Tokens"]["properties"]["count"]["type"] = "string"
    del wrong["components"]["schemas"]["ChatChunk"]["properties"]["choices"]["items"]["properties"]["stop_reason"]
    planted = ("/detokenize", "/tokenize", "/v1/chat/completions")
    for path in planted:
        with contextlib.redirect_stdout(io.StringIO()):
            clean = run(wrong, "--include-path", path, "--max-examples", "5", "--phases", "coverage")
        assert not clean, f"a fault in the description of {path} was not found"
    print(f"{len(planted)} planted faults, all found", flush=True)

    SEEN.clear()
    clean = run(closed, "--max-examples", str(EXAMPLES))
    # Most of what is drawn at random is no stream: once more, streams alone.
    streams = copy.deepcopy(closed)
    fields = streams["components"]["schemas"]["GenerationFields"]
    fields["required"] = ["stream"]
    fields["properties"]["stream"] = {"const": True}
    clean = run(streams, "--include-tag", "generation", "--mode", "positive", "--phases", "fuzzing", "--max-examples",
                str(EXAMPLES)) and clean
    operations = sorted({operation for operation, _, _ in SEEN})
    for operation in operations:
        statuses = collections.Counter()
        for (of, status, is_stream), count in SEEN.items():
            if of == operation:
                statuses[f"{status}{' stream' if is_stream else ''}"] += count
        print(f"{operation:30}" + ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items())))
    assert clean, "the server does not do as its description says"
    for operation in operations:
        assert SEEN[operation, 200, False] > 0, f"{operation} was never answered"
        generates = operation.endswith("completions")
        assert not generates or SEEN[operation, 200, True] > 0, f"{operation} was never answered by a stream"
    assert len(operations) == sum(len(path) for path in document["paths"].values()), operations


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # where schemathesis looks for settings and keeps what it found
        os.chdir(folder)
        with open("schemathesis.toml", "w", encoding="utf-8") as settings:
            settings.write(SETTINGS)
        main()
