"""A receiver over HTTP, of webhooks or traces, as somebody else runs one."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(ThreadingHTTPServer):
    """A receiver that can be down, slow, or lie. `read` reads a body for `behave`; what was taken stands in `got`: headers and body."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, read=json.loads):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.read, self.got, self.behave, self.lock = read, [], lambda _: 200, threading.Lock()
        self.address = f"http://127.0.0.1:{self.server_address[1]}/hooks"
        self.host = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def types(self):
        return [json.loads(body)["type"] for _, body in self.got]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.server.behave(self.server.read(body))
        if status is None:
            self.close_connection = True
            return
        with self.server.lock:
            if 200 <= status < 300:
                self.server.got.append((dict(self.headers.items()), body))
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass
