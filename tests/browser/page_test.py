"""The page at /, in a headless Chromium, against a live cluster of the small model that comes with the project.

Each check is itself checked: a fault is planted in the page, and has to be found.
"""

import contextlib
import json
import os
import re
import subprocess
import tempfile
import threading
import urllib.request

import devtools

MODEL = "deploy/models/smollm2-135m-draft-16m-q8_0.gguf"
BOUND_S = 90  # of everything
WIDE, PHONE = (1360, 860), (360, 740)
OUT = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR", ".")

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "audit.js"), encoding="utf-8") as file:
    AUDIT = file.read().split("\n", 2)[2]  # without the comment above


@contextlib.contextmanager
def cluster(*more):
    """(process, URL) of a running cluster."""
    command = ["./outrider", "serve", MODEL, "--draft-model", MODEL, "-t", "1", "--threads", "1", "--grpc-port", "0",
               "--metrics-port", "0", "--http-port", "0", "--max-model-len", "512", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = threading.Timer(BOUND_S, process.kill)
        watch.start()
        try:
            line = process.stdout.readline()
            ready = re.search(r" http=(\S+)", line)
            assert ready, f"the cluster did not start; it said {line!r}"
            yield process, f"http://{ready.group(1)}"
        finally:
            process.terminate()
            process.wait()
            watch.cancel()


def check_silent(page, what, but=()):
    """Nothing on the console, nothing thrown, nothing that could not be loaded."""
    problems = [problem for problem in page.take_problems() if not any(part in problem for part in but)]
    assert not problems, f"{what}: {problems}"


def check_problems_are_heard(page):
    for planted, sign in (("console.error('planted')", "planted"), ("setTimeout(() => { throw new Error('planted'); })", "planted"),
                          ("fetch('no-such-page').then(() => 0)", "404"),
                          ("document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.2:9/x'}))",
                           "Content Security Policy")):
        page.evaluate(f"void ({planted})")
        heard = []
        deadline_frames = 300
        while not any(sign in problem for problem in heard) and deadline_frames > 0:
            page.evaluate("new Promise((done) => requestAnimationFrame(() => done(0)))")
            heard += page.take_problems()
            deadline_frames -= 1
        assert any(sign in problem for problem in heard), f"planted {planted}, heard {heard}"


def audit(page):
    # Colours that fade in are looked at once they are there.
    page.wait("document.getAnimations().every((a) => !(a instanceof CSSTransition) || a.playState === 'finished')",
              "transitions to end")
    return page.evaluate(AUDIT)


def check_audit_finds_faults(page):
    faults = {
        "document.querySelector('label[for=message]').remove()": "no name: textarea#message",
        "document.querySelector('#status').style.color = '#999a'": "contrast",
        "document.querySelector('#message').style.borderColor = '#ccc'": "of the border of textarea#message",
        "document.querySelector('#send').style.height = '12px'": "too small to hit",
        "document.querySelector('#composer').style.width = '2000px'": "out of the window",
        "document.querySelector('#status').id = 'map'": "id twice: map",
        "document.querySelector('#cluster-title').outerHTML": None,  # nothing is changed: nothing is found
        "document.querySelector('#cluster h3').remove() || document.querySelectorAll('#map h3').forEach((h) => h.remove())":
            "a level of headings is left out",
    }
    for fault, sign in faults.items():
        page.open(page.url)
        page.wait("document.querySelector('.card.draft')", "the map")
        page.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
        before = audit(page)
        assert not before, before
        page.evaluate(f"void ({fault})")
        found = page.evaluate(AUDIT)
        assert bool(found) == (sign is not None) and (sign is None or any(sign in problem for problem in found)), \
            f"planted {fault}, found {found}"


def check_looks(page, name):
    """Both themes, wide and at phone width, both views; screenshots of each."""
    for theme in ("light", "dark"):
        for motion in ("no-preference", "reduce"):
            page.prefer(prefers_color_scheme=theme, prefers_reduced_motion=motion)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        is_dark = sum(int(part) for part in re.findall(r"\d+", ground)[:3]) < 3 * 128
        assert is_dark == (theme == "dark"), f"in {theme} the ground is {ground}"
        for size in (WIDE, PHONE):
            page.resize(*size, mobile=size is PHONE)
            for view in ("chat", "cluster"):
                if size is PHONE:
                    page.evaluate(f"document.querySelector('.views [data-view={view}]').click()")
                problems = audit(page)
                page.screenshot(os.path.join(OUT, f"{name}_{theme}_{size[0]}_{view}.png"))
                assert not problems, f"{name}, {theme}, {size[0]} px, {view}:\n" + "\n".join(problems)
            page.evaluate("document.querySelector('.views [data-view=chat]').click()")
    page.resize(*WIDE)


def check_theme_button(page):
    page.prefer(prefers_color_scheme="light")
    seen = []
    for _ in range(4):
        seen.append(page.evaluate("[document.querySelector('#theme-text').textContent, "
                                  "getComputedStyle(document.documentElement).colorScheme].join()"))
        page.evaluate("document.querySelector('#theme').click()")
    assert seen == ["System,light dark", "Light,light", "Dark,dark", "System,light dark"], seen
    # It is remembered.
    page.evaluate("document.querySelector('#theme').click()")
    page.open(page.url)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.evaluate("document.querySelector('#theme').click()")


def check_keyboard(page):
    """All controls are reached by Tab, in order, and it shows where one is."""
    page.open(page.url)
    page.wait("document.querySelector('.card.draft')", "the map")
    page.evaluate("document.querySelector('#settings').open = true")
    wanted = page.evaluate("[...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex]')]"
                           ".filter((e) => e.checkVisibility()).length")
    reached = []
    for _ in range(wanted):
        page.tab()
        reached.append(page.evaluate(
            "(() => { const e = document.activeElement; const s = getComputedStyle(e); return [e.id || e.textContent.trim(), "
            "e === document.body ? 'nothing' : s.outlineStyle === 'none' || parseFloat(s.outlineWidth) < 2 ? 'unseen' : 'seen', "
            "e.getBoundingClientRect().top]; })()"))
    assert all(state == "seen" for _, state, _ in reached), reached
    assert len({name for name, _, _ in reached}) == wanted, reached
    assert {"message", "send", "temperature", "api-key", "theme"} <= {name for name, _, _ in reached}, reached
    page.evaluate("document.querySelector('#settings').open = false")


def record_streams(page):
    """From now on, what the page reads of its streams is kept as it came, and how its text grew while they ran."""
    page.evaluate("""(() => {
      window.lengths = [];
      new MutationObserver(() => {
        const answer = document.querySelector('.answer[data-state=streaming] .text');
        if (answer !== null && answer.textContent.length !== window.lengths.at(-1)) window.lengths.push(answer.textContent.length);
      }).observe(document.querySelector('#turns'), {childList: true, subtree: true});
      const plain = window.fetch;
      window.sent = []; window.streams = [];
      window.fetch = async (path, options) => {
        const response = await plain(path, options);
        if (!path.endsWith('completions')) return response;
        window.sent.push({headers: options.headers, body: JSON.parse(options.body)});
        const [mine, theirs] = response.body ? response.body.tee() : [null, null];
        window.streams.push(new Response(mine).text().catch(() => ''));
        return new Response(theirs, {status: response.status, headers: response.headers});
      };
    })()""")


def expected_runs(stream):
    """The text of a stream by who proposed it, from its bytes: [(drafted, text)], neighbours joined."""
    marks, text = [], ""
    for line in stream.splitlines():
        if not line.startswith("data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            text += choice["delta"].get("content", "")
            for origin in choice.get("token_origins", []):
                marks += [origin["draft"]] * origin["text_bytes"]
    data = text.encode()
    assert len(marks) == len(data), f"{len(marks)} bytes have an origin, {len(data)} came"
    runs = []
    for mark, byte in zip(marks, data):
        if runs and runs[-1][0] == mark:
            runs[-1][1].append(byte)
        else:
            runs.append((mark, bytearray([byte])))
    return [(mark, part.decode()) for mark, part in runs]


def shown_runs(page):
    runs = []
    for origin, text in page.evaluate("[...document.querySelector('.answer:last-child .text').querySelectorAll('[data-origin]')]"
                                      ".map((e) => [e.dataset.origin, e.textContent])"):
        if runs and runs[-1][0] == (origin == "draft"):
            runs[-1][1] += text
        else:
            runs.append([origin == "draft", text])
    return [tuple(run) for run in runs]


def ask(page, text):
    page.evaluate("document.querySelector('#message').focus()")
    page.type(text)
    page.enter()


def check_answer(page):
    """An answer streams, and each of its tokens has the colour of who proposed it."""
    for field, value in (("temperature", "0.8"), ("max-tokens", "60"), ("seed", "7"), ("lookahead", "3"),
                         ("api-key", "secret")):
        page.evaluate(f"(() => {{ const e = document.querySelector('#{field}'); e.value = '{value}'; "
                      "e.dispatchEvent(new Event('change')); })()")
    record_streams(page)
    ask(page, "Write a short story about a lighthouse.")
    page.wait("document.querySelector('.answer').dataset.state === 'done'", "the end of the answer")
    # A small model is done before one looks: the page itself noted how the text grew.
    lengths = page.evaluate("window.lengths")
    assert len(lengths) >= 5 and lengths == sorted(set(lengths)), f"text came in pieces of {lengths}"
    sent = page.evaluate("window.sent[0]")
    assert sent["headers"]["Authorization"] == "Bearer secret", sent
    body = sent["body"]
    assert (body["temperature"], body["max_tokens"], body["seed"], body["lookahead"]) == (0.8, 60, 7, 3), body
    expected = expected_runs(page.evaluate("window.streams[0]"))
    assert {mark for mark, _ in expected} == {True, False}, f"tokens of both kinds are wanted: {expected}"
    assert shown_runs(page) == expected, f"shown {shown_runs(page)}, expected {expected}"
    page.evaluate("document.querySelector('[data-origin=draft]:not([data-space])').dataset.origin = 'target'")
    assert shown_runs(page) != expected, "a token in the wrong colour was not found"
    figures = page.evaluate("Object.fromEntries([...document.querySelectorAll('.answer dd')].map((e) => [e.dataset.figure, e.textContent]))")
    for name, form in {"ttft": r"\d+(\.\d+)? m?s", "rate": r"\d+(\.\d+)?", "length": r"\d+(\.\d+)?", "acceptance": r"\d+ %",
                       "tokens": r"60", "rounds": r"\d+"}.items():
        assert re.fullmatch(form, figures[name]), f"{name} is {figures[name]!r}"
    assert page.evaluate("document.querySelector('#say').textContent").startswith("Answer: ")
    page.wait("document.querySelector('[data-id=\"group-0\"] .bars li')", "acceptance by position on the map")


def check_stop(page, url):
    page.evaluate("document.querySelector('#max-tokens').value = 400; document.querySelector('#temperature').value = 0")
    # Stopped as soon as there is something of it.
    page.evaluate("""void new MutationObserver((_, observer) => {
      if (document.querySelectorAll('.answer[data-state=streaming] [data-origin]').length < 3) return;
      observer.disconnect();
      dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}));
    }).observe(document.querySelector('#turns'), {childList: true, subtree: true})""")
    ask(page, "Count to one thousand.")
    page.wait("document.querySelector('.answer:last-child').dataset.state === 'stopped'", "the answer to stop")
    # And the cluster stops too.
    page.wait("fetch('load').then((r) => r.json()).then((load) => load.server_load === 0)", "the request to be gone")
    page.evaluate("document.querySelector('#new-chat').click()")
    assert page.evaluate("document.querySelectorAll('.turn').length") == 0
    with urllib.request.urlopen(url + "/cluster", timeout=10) as response:
        assert json.load(response)["router"]["requests_open"] == 0


def check_errors_in_words(page):
    record_streams(page)
    # A setting out of range is not sent but shown.
    page.evaluate("document.querySelector('#temperature').value = 9")
    ask(page, "Too hot.")
    page.wait("document.activeElement.id === 'temperature' && document.querySelector('#settings').open", "the field that is wrong")
    assert page.evaluate("window.sent.length") == 0
    page.evaluate("document.querySelector('#temperature').value = 1; document.querySelector('#max-tokens').value = 8; "
                  "document.querySelector('#settings').open = false")
    # What the server refuses.
    ask(page, "word " * 600)
    page.wait("document.querySelector('.answer').dataset.state === 'failed'", "a refusal")
    words = page.evaluate("document.querySelector('[role=alert]').textContent")
    assert "no longer fits" in words and "{" not in words, words
    check_silent(page, "after a refusal", but=["400"])
    # A request that does not get through, and the second try. The question that was refused is not part of it.
    page.evaluate("(() => { const whole = window.fetch; window.fetch = () => { window.fetch = whole; return Promise.reject(new TypeError('planted')); }; })()")
    ask(page, "Once more.")
    page.wait("document.querySelector('.answer:last-child').dataset.state === 'failed'", "a failure")
    assert "can not be reached" in page.evaluate("document.querySelector('.answer:last-child [role=alert]').textContent")
    page.evaluate("document.querySelector('.answer:last-child [role=alert] button').click()")
    page.wait("document.querySelector('.answer:last-child').dataset.state === 'done'", "an answer at the second try")
    assert page.evaluate("window.sent.at(-1).body.messages.map((m) => m.content)") == ["Once more."]


def check_a_cluster_that_is_gone(page, process):
    page.open(page.url)
    page.wait("document.querySelector('.card.draft')", "the map")
    process.terminate()
    process.wait()
    page.wait("document.querySelector('#status').dataset.state === 'bad'", "the page to see that the cluster is gone")
    assert "can not be reached" in page.evaluate("document.querySelector('#cluster-notice').textContent")
    ask(page, "Anybody there?")
    page.wait("document.querySelector('.answer:last-child').dataset.state === 'failed'", "the failure to be shown")
    assert "can not be reached" in page.evaluate("document.querySelector('.answer:last-child [role=alert]').textContent")
    page.screenshot(os.path.join(OUT, "gone.png"))
    problems = audit(page)
    assert not problems, "\n".join(problems)


def check_keys(page):
    """A server that asks for keys: the page says so, and goes on once it has one."""
    drawn = subprocess.run(["./outrider", "key", "alice", "--json"], stdout=subprocess.PIPE, check=True, text=True)
    key = json.loads(drawn.stdout)
    with tempfile.NamedTemporaryFile("w") as keys:
        keys.write(key["line"] + "\n")
        keys.flush()
        with cluster("--api-keys", keys.name) as (_, url):
            page.open(url + "/")
            page.wait("document.querySelector('#status-text').textContent === 'API key wanted'", "the page to ask for a key")
            ask(page, "Hello?")
            page.wait("document.querySelector('.answer').dataset.state === 'failed'", "a refusal")
            assert "wants an API key" in page.evaluate("document.querySelector('[role=alert]').textContent")
            problems = audit(page)
            assert not problems, "\n".join(problems)
            page.evaluate("document.querySelector('#settings').open = true; document.querySelector('#api-key').focus()")
            page.type(key["key"])
            page.wait("document.querySelector('#status').dataset.state === 'good'", "the map with a key")
            page.evaluate("document.querySelector('#max-tokens').value = 8; document.querySelector('[role=alert] button').click()")
            page.wait("document.querySelector('.answer').dataset.state === 'done'", "an answer with a key")
            assert key["key"] not in json.dumps(page.evaluate("({...localStorage})")), "the key outlives the tab"
    page.take_problems()  # the refusals


def main():
    with cluster() as (process, url), devtools.browser() as page:
        page.url = url + "/"
        page.resize(*WIDE)
        page.open(page.url)
        page.wait("document.querySelector('#status').dataset.state === 'good'", "the page to know the cluster")
        page.wait("document.querySelector('.card.draft li') && "
                  "document.querySelector('.card.draft li').textContent.startsWith('drafts for group-0, ')",
                  "the map to show who drafts for whom")
        check_looks(page, "welcome")
        check_answer(page)
        check_looks(page, "answer")
        check_stop(page, url)
        check_keyboard(page)
        check_theme_button(page)
        check_silent(page, "in all that")
        check_errors_in_words(page)
        check_audit_finds_faults(page)
        check_silent(page, "in planted faults")
        check_problems_are_heard(page)
        check_a_cluster_that_is_gone(page, process)
        check_keys(page)
    print("the page is as it should be")


main()
