"""transformers.js as a client of hub_export.verify, in Node and in headless Chromium.

with Node(folder, "fp32") as client:              # of NODE_PACKAGES, a node_modules, or of programs.py's
    client.greedy([1, 2, 3], 8)
with Chromium(site, "fp32") as client:            # `site` is what `yxanul export --to web` made
    client.tokenize("hard text")
"""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
from browser import Browser, chromium, served

SCRIPT = Path(__file__).with_name("transformers_js.mjs")
PACKAGES = Path(__file__).resolve().parents[2] / "build/clients/npm/node_modules"


def node_library():
    """transformers.js for Node, or None."""
    folder = os.environ.get("NODE_PACKAGES") or PACKAGES
    file = Path(folder, "@huggingface", "transformers", "dist", "transformers.node.mjs")
    return file if file.exists() and shutil.which("node") else None


class _Asks:
    def logits(self, ids):
        found = self._ask(call="logits", ids=ids)
        # parts of 0x6000 bytes are whole triples, so that they are one text when they stand end to end
        return np.frombuffer(base64.b64decode(found["base64"]), np.float32).reshape(found["shape"])

    def greedy(self, ids, count):
        return self._ask(call="greedy", ids=ids, count=count)

    def tokenize(self, text):
        return self._ask(call="tokenize", text=text)

    def chat(self, messages):
        return self._ask(call="chat", messages=messages)


class Node(_Asks):
    def __init__(self, folder, dtype):
        library = node_library()
        version = json.loads((library.parent.parent / "package.json").read_text())["version"]
        self.name, self.cpu_seconds = f"transformers.js {version}, Node, {dtype}", 0.0
        words = ["node", str(SCRIPT), str(library), str(Path(folder).resolve()), dtype]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "ready"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"{self.name} ended")
        found = json.loads(line)
        self.cpu_seconds = found.get("cpu_seconds", 0.0)
        return found["answer"]

    def _ask(self, **question):
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()


class Chromium(_Asks):
    """In a page of the exported folder, with its files; the page's own worker answers `talk`."""

    def __init__(self, site, dtype, device="wasm", words=()):
        self.name, self._dtype, self._device = f"transformers.js, Chromium, {device}, {dtype}", dtype, device
        self._browser, self._served = Browser(*words), served(site)
        self.cpu_seconds = 0.0

    def __enter__(self):
        self.address = self._served.__enter__()
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self):
        browser = self._browser
        browser.open(f"{self.address}/settings.json")  # no page: its worker would load the model too
        browser.until("document.readyState === 'complete'")
        source = SCRIPT.read_text().partition("if (globalThis.process")[0]
        browser.evaluate(f"{source}; globalThis.opened = opened; globalThis.answered = answered; 0")
        browser.evaluate(f"""(async () => {{
            const library = await import("{self.address}/run/transformers.min.js");
            const files = "{self.address}/run/ort-wasm-simd-threaded.asyncify.";
            library.env.useWasmCache = false;
            library.env.backends.onnx.wasm.wasmPaths = {{ mjs: files + "mjs", wasm: files + "wasm" }};
            globalThis.client = await opened(library, "/", "model", {json.dumps(self._dtype)}, "{self._device}");
        }})()""")

    def __exit__(self, *error):
        self._browser.__exit__()
        self._served.__exit__(None, None, None)

    def _ask(self, **question):
        before = self._browser.cpu_seconds()
        found = self._browser.evaluate(f"answered(globalThis.client, {json.dumps(question)})")
        self.cpu_seconds = self._browser.cpu_seconds() - before
        return found

    def talk(self, messages, *, calculator=False, tokens=64):
        """The page's worker: its prompt, its tokens, what it wrote, every address asked for."""
        load, ask = {"kind": "load", "device": self._device}, {"kind": "answer", "messages": messages}
        ask |= {"calculator": calculator, "newTokens": tokens}
        return self._browser.evaluate(f"""new Promise((found, failed) => {{
            globalThis.worker ??= new Worker("/model.js", {{ type: "module" }});
            worker.onmessage = ({{ data }}) => {{
                if (data.kind === "ready") worker.postMessage({json.dumps(ask)});
                if (data.kind === "done") found(data);
                if (data.kind === "wrong") failed(Error(data.text));
            }};
            worker.postMessage({json.dumps(load)});
        }})""")

    @property
    def elsewhere(self):
        """Addresses that are not the server's."""
        own = (self.address, "data:", "blob:", "about:")
        return [address for address in self._browser.requests if not address.startswith(own)]


__all__ = ["Chromium", "Node", "chromium", "node_library"]
