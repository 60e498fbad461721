"""The stock `openai` package against a cluster: every field of the API, sync and async, streamed and whole.

openai_client.py http://HOST:PORT    exits 1 at the first thing that is not as OpenAI's API has it
"""

import asyncio
import sys

import openai

BASE = sys.argv[1]
CLIENT = openai.OpenAI(base_url=BASE + "/v1", api_key="none", max_retries=0, timeout=120)
ROOT = openai.OpenAI(base_url=BASE, api_key="none", max_retries=0, timeout=120)  # what is not under /v1
ASYNC = openai.AsyncOpenAI(base_url=BASE + "/v1", api_key="none", max_retries=0, timeout=120)
MODEL = CLIENT.models.list().data[0].id
HI = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name three colours."}]
# Extra fields of vLLM's and ours.
EXTRA = {"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 2, "ignore_eos": False,
         "stop_token_ids": [], "include_stop_str_in_output": False, "skip_special_tokens": True, "priority": -1,
         "cache_salt": "tenant", "chat_template_kwargs": {"enable_thinking": False}, "lookahead": 3, "draft": True,
         "acceptance": "coupled"}


def check(condition, *what):
    if not condition:
        raise AssertionError(what)


def refused(kind, status, param, code, call):
    try:
        call()
    except kind as error:
        check(error.status_code == status, error.status_code, status)
        check(error.param == param, error.param, param)
        check(error.code == code, error.code, code)
        check(error.type == "invalid_request_error", error.type)
        return
    raise AssertionError("%s was not refused" % param)


def models():
    model = CLIENT.models.retrieve(MODEL)
    check(model.id == MODEL and model.object == "model" and model.max_model_len > 0, model)


def chat_whole():
    answer = CLIENT.chat.completions.create(model=MODEL, messages=HI, max_completion_tokens=12, temperature=0)
    choice = answer.choices[0]
    check(answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == MODEL, answer)
    check(choice.message.role == "assistant" and choice.message.content, answer)
    check(choice.finish_reason in ("stop", "length"), answer)
    check(answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage)
    check(answer.usage.completion_tokens_details.reasoning_tokens == 0, answer.usage)
    return choice.message.content


def chat_stream(expected):
    chunks = list(CLIENT.chat.completions.create(model=MODEL, messages=HI, max_completion_tokens=12, temperature=0,
                                                 stream=True, stream_options={"include_usage": True}))
    check(chunks[0].choices[0].delta.role == "assistant", chunks[0])
    check(all(chunk.object == "chat.completion.chunk" and chunk.id == chunks[0].id for chunk in chunks), chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    check(text == expected, text, expected)
    check(all(chunk.usage is None for chunk in chunks[:-1]), chunks)
    check(chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0, chunks[-1])
    check(chunks[-2].choices[0].finish_reason in ("stop", "length"), chunks[-2])
    continuous = list(CLIENT.chat.completions.create(
        model=MODEL, messages=HI, max_tokens=4, stream=True,
        stream_options={"include_usage": True}, extra_body={"stream_options": {"include_usage": True,
                                                                               "continuous_usage_stats": True}}))
    check(all(chunk.usage is not None for chunk in continuous), continuous)


def sampling():
    def ask(**fields):
        return CLIENT.chat.completions.create(model=MODEL, messages=HI, max_tokens=10, **fields)
    same = [ask(temperature=0.9, top_p=0.9, seed=11, presence_penalty=0.5, frequency_penalty=0.25, user="u",
                extra_body=EXTRA).choices[0].message.content for _ in range(2)]
    check(same[0] == same[1], same)
    plain = ask(temperature=0.9, seed=11, extra_body={"draft": False}).choices[0].message.content
    drafted = ask(temperature=0.9, seed=11, extra_body={"lookahead": 5}).choices[0].message.content
    check(plain == drafted, plain, drafted)
    several = ask(n=3, temperature=1.5, seed=3)
    check([choice.index for choice in several.choices] == [0, 1, 2], several)
    check(several.usage.completion_tokens <= 30, several.usage)
    ids = ROOT.post("/tokenize", body={"model": MODEL, "prompt": " red"}, cast_to=object)["tokens"]
    biased = CLIENT.completions.create(model=MODEL, prompt="The colour is", max_tokens=3, temperature=0,
                                       logit_bias={str(ids[0]): 100})
    check("red" in biased.choices[0].text, biased)
    exact = CLIENT.completions.create(model=MODEL, prompt="a", max_tokens=9, extra_body={"ignore_eos": True})
    check(exact.usage.completion_tokens == 9 and exact.choices[0].finish_reason == "length", exact)


def logprobs():
    answer = CLIENT.chat.completions.create(model=MODEL, messages=HI, max_tokens=3, temperature=0, logprobs=True,
                                            top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    check(len(tokens) == answer.usage.completion_tokens, tokens)
    for token in tokens:
        check(bytes(token.bytes).decode("utf-8", "replace") == token.token, token)
        check(len(token.top_logprobs) == 2 and token.top_logprobs[0].logprob == token.logprob <= 0, token)
    answer = CLIENT.completions.create(model=MODEL, prompt="One, two,", max_tokens=3, temperature=0, logprobs=2)
    shown = answer.choices[0].logprobs
    check("".join(shown.tokens) == answer.choices[0].text, shown, answer.choices[0].text)
    check(shown.text_offset[0] == 0 and len(shown.top_logprobs) == len(shown.token_logprobs) == 3, shown)


def prompt_logprobs():
    text = "One, two, three, four,"
    ids = ROOT.post("/tokenize", body={"prompt": text}, cast_to=object)["tokens"]
    answer = CLIENT.completions.create(model=MODEL, prompt=text, max_tokens=2, temperature=0,
                                       extra_body={"prompt_logprobs": 2})
    told = answer.choices[0].prompt_logprobs
    check(len(told) == len(ids) and told[0] is None, told, ids)
    for token_id, entry in zip(ids[1:], told[1:]):
        own = entry[str(token_id)]
        check(own["logprob"] <= 0 and own["rank"] >= 1 and own["decoded_token"], entry)
        check(2 <= len(entry) <= 3 and min(one["rank"] for one in entry.values()) == 1, entry)
    # A token's logprob is what the token would have as an answer to what stands before it.
    before = CLIENT.completions.create(model=MODEL, prompt=ids[:-1], max_tokens=1, temperature=0, logprobs=0,
                                       logit_bias={str(ids[-1]): 100})
    check(before.choices[0].logprobs.token_logprobs[0] == told[-1][str(ids[-1])]["logprob"], before, told[-1])
    again = CLIENT.completions.create(model=MODEL, prompt=text, max_tokens=2, temperature=0,
                                      extra_body={"prompt_logprobs": 2})
    check(again.choices[0].prompt_logprobs == told and again.usage.prompt_tokens_details.cached_tokens == 0, again)
    echoed = CLIENT.completions.create(model=MODEL, prompt=text, max_tokens=2, temperature=0, logprobs=1, echo=True)
    shown = echoed.choices[0].logprobs
    check("".join(shown.tokens) == echoed.choices[0].text == text + answer.choices[0].text, echoed)
    check(shown.token_logprobs[:len(ids)] == [None] + [entry[str(i)]["logprob"] for i, entry in zip(ids[1:], told[1:])],
          shown, told)
    check(len(shown.top_logprobs) == len(shown.text_offset) == len(ids) + 2 and shown.top_logprobs[0] is None, shown)
    chat = CLIENT.chat.completions.create(model=MODEL, messages=HI, max_tokens=2, extra_body={"prompt_logprobs": 0})
    check(len(chat.prompt_logprobs) == chat.usage.prompt_tokens and chat.prompt_logprobs[0] is None, chat)


def prediction():
    def ask(**fields):
        return CLIENT.chat.completions.create(model=MODEL, messages=HI, max_tokens=24, temperature=0, **fields)
    plain = ask()
    text = plain.choices[0].message.content
    details = plain.usage.completion_tokens_details
    check(details.accepted_prediction_tokens == details.rejected_prediction_tokens == 0, plain)
    predicted = ask(prediction={"type": "content", "content": text}, extra_body={"lookahead": 4})
    check(predicted.choices[0].message.content == text, predicted, text)
    details = predicted.usage.completion_tokens_details
    check(details.accepted_prediction_tokens > 4, predicted)
    wrong = ask(prediction={"type": "content", "content": text[:len(text) // 2] + " 7 8 9 10 11 12 13"},
                extra_body={"lookahead": 4})
    check(wrong.choices[0].message.content == text, wrong, text)
    check(wrong.usage.completion_tokens_details.rejected_prediction_tokens > 0, wrong)


def stops():
    def ask(**fields):
        return CLIENT.completions.create(model=MODEL, prompt="One, two, three, four,", max_tokens=40, temperature=0,
                                         **fields).choices[0]
    free = ask().text
    stop = free[4:7]
    choice = ask(stop=[stop])
    check(choice.text == free[:free.index(stop)] and choice.finish_reason == "stop", choice, free)
    check(choice.stop_reason == stop, choice)
    choice = ask(stop=stop, extra_body={"include_stop_str_in_output": True})
    check(choice.text == free[:free.index(stop)] + stop, choice, free)


def completions():
    ids = ROOT.post("/tokenize", body={"prompt": "Hello there"}, cast_to=object)["tokens"]
    text = ROOT.post("/detokenize", body={"tokens": ids}, cast_to=object)["prompt"]
    check(text.endswith("Hello there"), text)
    answers = [CLIENT.completions.create(model=MODEL, prompt=prompt, max_tokens=5, temperature=0, echo=echo)
               for prompt in ("Hello there", ids, ["Hello there", "Bye"], [ids, ids]) for echo in (False, True)]
    check([len(answer.choices) for answer in answers] == [1, 1, 1, 1, 2, 2, 2, 2], answers)
    check(answers[1].choices[0].text == "Hello there" + answers[0].choices[0].text, answers[:2])
    check(answers[2].choices[0].text == answers[0].choices[0].text, answers[:3])
    check(answers[4].choices[0].text == answers[0].choices[0].text, answers[4])
    chunks = list(CLIENT.completions.create(model=MODEL, prompt=["Hello there", "Bye"], max_tokens=5, temperature=0,
                                            stream=True))
    for index in range(2):
        parts = [chunk.choices[0].text for chunk in chunks if chunk.choices[0].index == index]
        check("".join(parts) == answers[4].choices[index].text, parts)


def speculation():
    answer = CLIENT.chat.completions.create(model=MODEL, messages=HI, max_tokens=24, temperature=0)
    stats = answer.metrics["speculative_decoding"]
    check(stats["num_accepted_draft_tokens"] <= stats["num_draft_tokens"], stats)
    check(stats["mean_acceptance_length"] >= 1, stats)
    histogram = stats["acceptance_histogram"]
    check(len(histogram) == stats["num_spec_tokens"] + 1 and sum(histogram) == stats["num_spec_steps"], stats)
    check(sum(j * rounds for j, rounds in enumerate(histogram)) == stats["num_accepted_draft_tokens"], stats)


def refusals():
    def chat(**fields):
        return lambda: CLIENT.chat.completions.create(**{"model": MODEL, "messages": HI, "max_tokens": 4, **fields})
    bad = openai.BadRequestError
    refused(openai.NotFoundError, 404, "model", "model_not_found", chat(model="none"))
    refused(bad, 400, "n", "invalid_value", chat(n=0))
    refused(bad, 400, "temperature", "invalid_value", chat(temperature=-1))
    refused(bad, 400, "max_tokens", "invalid_parameter_combination", chat(max_completion_tokens=5))
    refused(bad, 400, "response_format", "unsupported_parameter", chat(response_format={"type": "json_object"}))
    refused(bad, 400, "tools", "unsupported_parameter",
            chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]))
    refused(bad, 400, "messages", "unsupported_parameter", chat(messages=[
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}]))
    refused(bad, 400, "messages", "context_length_exceeded", chat(messages=[{"role": "user", "content": "a b " * 99999}]))
    refused(bad, 400, "prompt_logprobs", "invalid_value", chat(extra_body={"prompt_logprobs": 21}))
    refused(bad, 400, "prediction", "invalid_value", chat(prediction={"type": "guess", "content": "x"}))
    refused(bad, 400, "temperature", "invalid_value", chat(temperature=-1, stream=True))


async def asynchronous():
    async def whole(prompt):
        answer = await ASYNC.completions.create(model=MODEL, prompt=prompt, max_tokens=6, temperature=0)
        return answer.choices[0].text

    async def stream(prompt):
        parts = []
        async for chunk in await ASYNC.completions.create(model=MODEL, prompt=prompt, max_tokens=6, temperature=0,
                                                          stream=True):
            parts.append(chunk.choices[0].text)
        return "".join(parts)
    prompts = ["Count: %d" % i for i in range(8)]
    wholes, streams = await asyncio.gather(asyncio.gather(*map(whole, prompts)), asyncio.gather(*map(stream, prompts)))
    check(wholes == streams, wholes, streams)
    # A client that leaves early leaves nothing behind.
    left = await ASYNC.chat.completions.create(model=MODEL, messages=HI, max_tokens=400, stream=True)
    async for _ in left:
        break
    await left.close()


def main():
    models()
    chat_stream(chat_whole())
    sampling()
    logprobs()
    prompt_logprobs()
    prediction()
    stops()
    completions()
    speculation()
    refusals()
    asyncio.run(asynchronous())
    print("all as the API has it")


if __name__ == "__main__":
    main()
