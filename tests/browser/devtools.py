"""A headless Chromium, driven by its DevTools protocol over a pipe: the standard library is all it takes.

Nothing sleeps: a caller waits for a condition in the page, which is asked again each time the page has drawn, and for a
bound. What the page says on its console, throws, or fails to load is kept in Page.problems.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BOUND_S = 30


def find_browser():
    for program in PROGRAMS:
        path = shutil.which(program)
        if path is not None:
            return path
    raise FileNotFoundError(f"none of {', '.join(PROGRAMS)} is installed: run deploy/setup.sh browser")


class Pipe:
    """The protocol: messages of JSON, each ended by a zero byte."""

    def __init__(self, to_browser, from_browser):
        self._to = to_browser
        self._from = from_browser
        self._rest = b""
        self._next_id = 0
        self.on_event = lambda session, method, params: None

    def call(self, method, session=None, bound_s=BOUND_S, **params):
        self._next_id += 1
        number = self._next_id
        message = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data):]
        deadline = time.monotonic() + bound_s
        while True:
            answer = self._read(deadline, method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            if "method" in answer:
                self.on_event(answer.get("sessionId"), answer["method"], answer["params"])

    def _read(self, deadline, method):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser did not answer {method} in time")
            data = os.read(self._from, 1 << 16)
            if not data:
                raise RuntimeError(f"the browser ended during {method}")
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)


class Page:
    """One tab."""

    def __init__(self, pipe, session):
        self._pipe = pipe
        self._session = session
        self.problems = []
        pipe.on_event = self._on_event
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        return self._pipe.call(method, session=self._session, **params)

    def _on_event(self, _session, method, params):
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            said = " ".join(str(part.get("value", part.get("description"))) for part in params["args"])
            self.problems.append(f"console.{params['type']}: {said}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.problems.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.problems.append(f"network: {params['errorText']}")

    def take_problems(self):
        self.evaluate("0")  # what was said before this is heard
        problems, self.problems = self.problems, []
        return problems

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'", f"{url} to load")

    def evaluate(self, expression):
        """The value of an expression of the page; a promise is awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(f"{expression}: {details.get('exception', {}).get('description', details['text'])}")
        return result["result"].get("value")

    def wait(self, condition, what, bound_s=BOUND_S):
        """Until `condition` (or what it promises) is true, asked once a frame."""
        deadline = time.monotonic() + bound_s
        while True:
            with contextlib.suppress(RuntimeError):  # the page was left in between
                if self.evaluate(f"Promise.resolve({condition}).then((holds) => Boolean(holds) || "
                                 "new Promise((done) => requestAnimationFrame(() => done(false))))"):
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {bound_s} s for {what}")

    def press(self, key, code=None, text=None, modifiers=0, virtual=0):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, modifiers=modifiers,
                      windowsVirtualKeyCode=virtual, **({"text": text} if text and kind == "keyDown" else {}))

    def enter(self):
        self.press("Enter", text="\r", virtual=13)

    def tab(self):
        self.press("Tab", virtual=9)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def resize(self, width, height, scale=1, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile)

    def prefer(self, **features):
        """prefer(prefers_color_scheme='dark')"""
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": name.replace("_", "-"), "value": value} for name, value in features.items()])

    def screenshot(self, path):
        image = self.call("Page.captureScreenshot", format="png")
        with open(path, "wb") as file:
            file.write(base64.b64decode(image["data"]))


@contextlib.contextmanager
def browser():
    """A page of a browser with a profile of its own, which ends with the context."""
    # The pipe is on the browser's descriptors 3 and 4.
    out_read, out_write = os.pipe()
    in_read, in_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [find_browser(), "--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-sandbox",
                   "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                   "--disable-component-update", "--disable-extensions", "--hide-scrollbars", "--mute-audio",
                   "--no-proxy-server"]

        def connect():
            os.dup2(out_read, 63)
            os.dup2(in_write, 64)
            os.dup2(63, 3)
            os.dup2(64, 4)

        with subprocess.Popen(command, preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, start_new_session=True) as process:
            os.close(out_read)
            os.close(in_write)
            try:
                pipe = Pipe(out_write, in_read)
                target = pipe.call("Target.createTarget", url="about:blank")["targetId"]
                session = pipe.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
                yield Page(pipe, session)
                with contextlib.suppress(RuntimeError, TimeoutError):
                    pipe.call("Browser.close", bound_s=5)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its children too
                process.wait()
                os.close(out_write)
                os.close(in_read)
