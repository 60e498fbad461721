#!/usr/bin/env python3
"""Cuts Hugging Face tokenizers down to what a set of texts needs, keeping ids.

usage: make_hf_tokenizers.py NAME TOKENIZER_JSON TOKENIZER_CONFIG_JSON ENCODINGS_JSON, in this folder.

Writes NAME_tokenizer.json, NAME_tokenizer_config.json (without the chat template) and NAME_encodings.json.
ENCODINGS_JSON is a list of {text, ids, decoded, decoded_skip} by Hugging Face tokenizers 0.23.3. Every merge that BPE
applies makes a part of a token of the result, and a merge that is never applied changes nothing by being absent: so
the tokens of the results, all that merges make them from, and the single bytes (with byte fallback: characters) suffice.
"""
import json
import sys

name, tokenizer_path, config_path, encodings_path = sys.argv[1:]
tokenizer = json.load(open(tokenizer_path, encoding="utf-8"))
config = json.load(open(config_path, encoding="utf-8"))
encodings = json.load(open(encodings_path, encoding="utf-8"))

vocab = tokenizer["model"]["vocab"]
by_id = {i: token for token, i in vocab.items()}
merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in tokenizer["model"]["merges"]]
makers = {}
for left, right in merges:
    makers.setdefault(left + right, []).append((left, right))

texts = "".join(e["text"] for e in encodings)
if tokenizer["model"].get("byte_fallback"):
    needed = {token for token in vocab if len(token) == 6 and token.startswith("<0x") and token.endswith(">")}
    needed |= {c for c in set(texts) | {"\u2581"} if c in vocab}
else:
    needed = {token for token in vocab if len(token) == 1}
used = {i for e in encodings for i in e["ids"]}
tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"]
                             if t["id"] in used or t["content"] in texts or not t["content"].startswith("<unused")]
needed |= {t["content"] for t in tokenizer["added_tokens"] if t["content"] in vocab}
open_tokens = [by_id[i] for e in encodings for i in e["ids"] if i in by_id]
while open_tokens:
    token = open_tokens.pop()
    if token in needed:
        continue
    needed.add(token)
    for pair in makers.get(token, []):
        open_tokens.extend(pair)

tokenizer["model"]["vocab"] = {token: i for token, i in vocab.items() if token in needed}
tokenizer["model"]["merges"] = [f"{a} {b}" for a, b in merges if a in needed and b in needed and a + b in needed]
config.pop("chat_template", None)
config.pop("added_tokens_decoder", None)


def write(kind, value):
    with open(f"{name}_{kind}.json", "w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")


write("tokenizer", tokenizer)
write("tokenizer_config", config)
write("encodings", [[e["text"], e["ids"], e["decoded"] if e["decoded"] != e["text"] else None,
                     e["decoded_skip"] if e["decoded_skip"] != e["decoded"] else None] for e in encodings])
print(len(needed), "tokens,", len(tokenizer["model"]["merges"]), "merges")
