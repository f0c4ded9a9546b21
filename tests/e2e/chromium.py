"""A headless Chromium for a test, spoken to over a pipe in the DevTools protocol: one page, its
requests, keys and screenshots. Nothing but Python's own library is needed.
"""
import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find_chromium():
    """The path of a Chromium, or None. DF_CHROMIUM names one that is elsewhere."""
    return os.environ.get("DF_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="deepflight-page-")
        from_us, self.to_browser = os.pipe()
        self.from_browser, to_us = os.pipe()
        # The browser wants to read from descriptor 3 and to write to 4.
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$@" 3<&{from_us} 4>&{to_us}', "sh", find_chromium(),
             "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={self.profile}"],
            pass_fds=(from_us, to_us), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(from_us)
        os.close(to_us)
        self.received = b""
        self.num_calls = 0
        self.session = None
        self.errors = []    # what the page threw, and what its policy forbade
        self.answers = {}   # what requests get instead of the server's answer: {end of path: f}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target,
                                 flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.to_browser)
        os.close(self.from_browser)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _send(self, method, **params):
        self.num_calls += 1
        message = {"id": self.num_calls, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        return self.num_calls

    def call(self, method, **params):
        """Calls a method and returns its result, handling the events that come before it."""
        call_id = self._send(method, **params)
        deadline = time.monotonic() + 120
        while True:
            while b"\0" not in self.received:
                assert time.monotonic() < deadline, f"{method}: no answer"
                if select.select([self.from_browser], [], [], 1)[0]:
                    some = os.read(self.from_browser, 1 << 20)
                    assert some, f"{method}: the browser is gone"
                    self.received += some
            line, _, self.received = self.received.partition(b"\0")
            message = json.loads(line)
            if message.get("id") == call_id:
                assert "error" not in message, f"{method}: {message.get('error')}"
                return message["result"]
            self._handle(message.get("method"), message.get("params", {}))

    def _handle(self, event, params):
        if event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and params["entry"]["source"] == "security":
            self.errors.append(params["entry"]["text"])
        elif event == "Fetch.requestPaused":
            url = params["request"]["url"]
            answer = next((f for end, f in self.answers.items() if url.endswith(end)), None)
            if answer is None:
                self._send("Fetch.continueRequest", requestId=params["requestId"])
                return
            content_type, body = answer()
            self._send("Fetch.fulfillRequest", requestId=params["requestId"], responseCode=200,
                       responseHeaders=[{"name": "Content-Type", "value": content_type}],
                       body=base64.b64encode(body.encode()).decode())

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)

    def dark(self, on):
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if on else "light"}])

    def offline(self, on):
        self.call("Network.emulateNetworkConditions", offline=on, latency=0,
                  downloadThroughput=-1, uploadThroughput=-1)

    def answer(self, end_of_path, make):
        """Requests get make()'s (content type, body); None: the server's answer again."""
        self.answers.pop(end_of_path, None)
        if make:
            self.answers[end_of_path] = make
        if self.answers:
            self.call("Fetch.enable", patterns=[{"urlPattern": f"*{end}"} for end in self.answers])
        else:
            self.call("Fetch.disable")

    def run(self, script):
        """The value of a JavaScript expression, awaited."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True,
                           returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, condition, timeout_s=60):
        """Waits until an expression is truthy; returns its value."""
        deadline = time.monotonic() + timeout_s
        while not (value := self.run(condition)):
            assert time.monotonic() < deadline, f"not so after {timeout_s} s: {condition}"
            time.sleep(0.03)
        return value

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, key, code=0, text="", shift=False):
        fields = {"key": key, "code": key, "windowsVirtualKeyCode": code,
                  "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **fields)
        self.call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def enter(self, shift=False):
        self.press("Enter", 13, "\r", shift)

    def screenshot(self, path):
        image = self.call("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(image))
