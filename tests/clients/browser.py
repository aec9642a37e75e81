"""Headless Chromium, driven over a pipe by its own protocol: scripts, pictures, and every address it asked for.

    with Browser() as browser, served(folder) as address:
        browser.open(f"{address}/index.html", width=1200, height=800)
        browser.until("document.title")
        browser.picture(Path("page.png"))

CHROMIUM names the program; else it is the machine's, or what programs.py unpacked. It runs in a process group of its
own, which is ended as a whole.
"""

import base64
import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

UNPACKED = Path(__file__).resolve().parents[2] / "build/clients/chromium/chromium"


def chromium():
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "chrome", str(UNPACKED))
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Browser:
    def __init__(self, *words):
        words = words or ("--disable-gpu",)
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [chromium(), "--headless", "--no-sandbox", "--hide-scrollbars", *words]
        command += ["--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", "--disable-dev-shm-usage"]

        def descriptors():  # it reads 3 and writes 4
            high_in, high_out = os.dup(theirs_in), os.dup(theirs_out)
            spare_in, spare_out = os.dup2(high_in, 200), os.dup2(high_out, 201)
            os.dup2(spare_in, 3), os.dup2(spare_out, 4)

        self._process = subprocess.Popen(
            command,
            preexec_fn=descriptors,
            pass_fds=(3, 4),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in), os.close(theirs_out)
        self._number, self._rest, self._session = 0, b"", None
        self.requests, self.complaints = [], []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in), os.close(self._out)
        self._profile.cleanup()

    def call(self, method, **parameters):
        mine = self._send(method, parameters, self._session)
        while True:
            answer = self._read()
            if answer.get("id") == mine:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def _send(self, method, parameters, session):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._out, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        return self._number

    def _read(self):
        while b"\0" not in self._rest:
            part = os.read(self._in, 1 << 16)
            if not part:
                raise RuntimeError("Chromium ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def _note(self, event):
        parameters = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"].get("exception", {}).get("description", "?"))
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif event.get("method") == "Target.attachedToTarget" and self._session:  # a worker
            for method in ("Network.enable", "Runtime.enable", "Log.enable", "Runtime.runIfWaitingForDebugger"):
                self._send(method, {}, parameters["sessionId"])

    def open(self, address, *, width=1200, height=800, dark=False, phone=False):
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True)
        for domain in ("Network", "Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.look(width=width, height=height, dark=dark, phone=phone)
        self.call("Page.navigate", url=address)

    def look(self, *, width, height, dark=False, phone=False):
        scale = 2 if phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def evaluate(self, script):
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"].get("description", "?"))
        return found["result"].get("value")

    def until(self, script, seconds=300):
        end = time.monotonic() + seconds
        while not self.evaluate(f"!!({script})"):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {script}; {self.complaints}")
            time.sleep(0.2)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def cpu_seconds(self):
        """Of all its processes so far."""
        total = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self._process.pid:  # the process group
                    total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def served(folder):
    """What `python -m http.server` does, on a free port."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
