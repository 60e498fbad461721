#!/usr/bin/env python3
"""Streams a chat answer over HTTP with OpenAI's package.

    pip install openai
    examples/python/openai_chat.py --base-url http://127.0.0.1:8000/v1 "Why is the sky blue?"
"""

import argparse
import os
import sys

import openai


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--lookahead", type=int, help="draft tokens a round, 0 to 32; measured if it is left out")
    parser.add_argument("message", nargs="?", default="Why is the sky blue?")
    arguments = parser.parse_args()

    client = openai.OpenAI(base_url=arguments.base_url, api_key=os.environ.get("OUTRIDER_API_KEY", "none"))
    # What OpenAI's API does not know goes into extra_body.
    extra = {} if arguments.lookahead is None else {"lookahead": arguments.lookahead}
    sampling = {name: value for name, value in (("temperature", arguments.temperature), ("seed", arguments.seed))
                if value is not None}
    try:
        chunks = client.chat.completions.create(
            model=client.models.list().data[0].id, messages=[{"role": "user", "content": arguments.message}],
            max_completion_tokens=arguments.max_tokens, stream=True, stream_options={"include_usage": True},
            extra_body=extra, **sampling)
        for chunk in chunks:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
            elif chunk.usage:
                print(f"\n{chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens} tokens", file=sys.stderr)
    except openai.APIError as error:
        sys.exit(f"{type(error).__name__}: {error.message}")


if __name__ == "__main__":
    main()
