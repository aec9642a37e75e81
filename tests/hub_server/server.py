"""A Hugging Face Hub on the loopback address, for tests: the standard library and PyYAML.

    hub, stop = serve({"a-token": User("owner")})
    subprocess.run(command, env=client_environment(hub.url, home))     # the clients read HF_ENDPOINT when imported

The real `huggingface_hub` and `datasets` list, read and stream from it (`reading.py`) and push to it (`pushing.py`);
faults on demand; over Xet where `hub.xet_folder` is set (`xet.py`). Not here: persistence, rate limits, gates.
"""

import json
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from hub_server import pushing, reading  # noqa: F401  `pushing` is only imported for its routes
from hub_server.repositories import Hub, HubError
from hub_server.routes import find_route


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def dispatch(self):
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self.fault = self.hub.next_fault(self.command, url.path)
        length = int(self.headers.get("Content-Length") or 0)
        if self.fault and self.fault.drop_after is not None and length:
            self.rfile.read(min(length, self.fault.drop_after))
            return self.drop()
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        self.body = self.read_chunks() if chunked else self.rfile.read(length)
        try:
            self.answer(url.path)
        except HubError as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            self.send(error.body or {"error": error.message}, error.status, headers=headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = dispatch

    def answer(self, path):
        if self.fault and self.fault.status:
            raise HubError(self.fault.status, "injected")
        found = find_route(self.command, path)
        if found is None:
            raise HubError(404, f"no route {self.command} {path}")
        function, arguments = found
        function(self, **arguments)

    # -- for the routes

    def json(self):
        return json.loads(self.body)

    def user(self):
        header = self.headers["Authorization"]
        if header is None:
            return None
        user = self.hub.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, reading.BAD_TOKEN)
        return user

    def repository(self, kind, name, write=False):
        return self.hub.find(kind, name, self.user(), write)

    def check_signature(self, sha256):
        if self.hub.signed.get(self.query.get("signature")) != sha256:
            raise HubError(403, "bad signature")

    def send(self, data, status=200, content_type="application/json", headers=None):
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.hub.log.append((self.command, urlsplit(self.path).path, status))
        if self.command == "HEAD":
            return
        if self.fault and self.fault.drop_after is not None:
            self.wfile.write(body[: self.fault.drop_after])
            return self.drop()
        self.wfile.write(body)

    def send_range(self, data, headers):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.send(data, 200, "application/octet-stream", headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first > last:
            raise HubError(416, f"bytes {first} of {len(data)}")
        headers = headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        self.send(data[first : last + 1], 206, "application/octet-stream", headers)

    # -- plumbing

    def read_chunks(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def drop(self):
        self.hub.log.append((self.command, urlsplit(self.path).path, "dropped"))
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def serve(users):
    """(hub, stop): listens on a free port of 127.0.0.1, in threads of this process, until stop() is called."""
    hub = Hub(users)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()

    def stop():
        server.shutdown()
        server.server_close()
        thread.join()

    return hub, stop


def client_environment(url, home, token=None, xet=False):
    """This process's environment, with its clients' settings replaced: this Hub, an empty cache, no other token."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    return kept | settings | ({"HF_TOKEN": token} if token else {})
