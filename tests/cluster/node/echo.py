"""Runs in the tests' pods: says on every path who it is, and on `/asked` what it was asked; `/metrics` is on a port of
its own."""

import http.server
import json
import os
import threading

ASKED = []


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers; what asks about the questions is none."""

    protocol_version = "HTTP/1.1"
    # Headers and body are two packets, the second of which would wait for the first one's receipt.
    disable_nagle_algorithm = True

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if self.path == "/asked":
            text = json.dumps(ASKED)
        elif self.path == "/metrics":
            text = f"asked_total {len(ASKED)}\n"
        else:
            ASKED.append({"path": self.path, "body": body, "headers": {k.lower(): v for k, v in self.headers.items()}})
            text = os.environ["ECHO"]
        answer = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


threading.Thread(target=http.server.ThreadingHTTPServer(("", 9109), Echo).serve_forever).start()
http.server.ThreadingHTTPServer(("", 8080), Echo).serve_forever()
