"A headless Chromium driven through its DevTools pipe: no driver, no further package."
import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", "--remote-debugging-pipe"]


class Browser:
    """One page. `seconds`: how long it may take to do what is waited for. `offline`: no host but
    this machine is found. `complaints` collects the errors of console, scripts and requests."""
    def __init__(self, profile, width=1400, height=1000, seconds=60, offline=False):
        down, self.down = os.pipe() # commands to it
        self.up, up = os.pipe()     # answers from it
        command = f'exec "$0" "$@" 3<&{down} 4>&{up}'
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        if offline:
            flags.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        self.process = subprocess.Popen(["bash", "-c", command, CHROMIUM, *flags, "about:blank"],
                                        pass_fds=(down, up), stderr=subprocess.DEVNULL)
        os.close(down), os.close(up)
        self.answers, self.count, self.session, self.seconds = b"", 0, {}, seconds
        self.complaints = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": found["sessionId"]}
        for domain in ("Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        "One DevTools command; its result."
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters} | self.session
        os.write(self.down, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.answers:
                part = os.read(self.up, 1 << 20)
                assert part, "the browser has ended"
                self.answers += part
            one, _, self.answers = self.answers.partition(b"\0")
            answer = json.loads(one)
            self.note(answer)
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def note(self, event):
        "Keep what a page complains about."
        kind, said = event.get("method", ""), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.complaints.append(details.get("exception", details).get("description", details))
        elif kind == "Runtime.consoleAPICalled" and said["type"] in ("error", "assert"):
            self.complaints.append(str(said["args"]))
        elif kind == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.complaints.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        elif kind == "Network.loadingFailed" and not said.get("canceled"):
            self.complaints.append(f"not loaded: {said.get('errorText')}")

    def size(self, width, height):
        "Show the page as on a screen of this size; below 500 pixels it is a phone's."
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 500)

    def js(self, expression):
        "The value of an expression in the page."
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression):
        "Wait until an expression is true in the page; its value."
        end = time.monotonic() + self.seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < end, f"{expression} did not become true"
            time.sleep(.1)
        return value

    def open(self, url):
        "Go to an address."
        self.call("Page.navigate", url=url)
        self.wait("document.readyState == 'complete'")

    def screenshot(self, path):
        "The page as a PNG."
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self):
        "End the browser."
        self.process.terminate()
        self.process.wait(20)
        os.close(self.down), os.close(self.up)
