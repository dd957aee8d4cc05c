"""How gunicorn serves the web. It reads this where it starts; its command line comes first."""

import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import Any

threads = 100  # of each process wait for clients, of which many may be slow, ...
WORKING = 4  # ... and so many work, each with a database connection of its own
accesslog = "-"
control_socket_disable = True
# gunicorn believes these of all that connect from this machine; BEHIND_PROXY decides instead.
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""


def when_ready(server: Any) -> None:
    """Drop a client that is silent within a request: on Linux, connections inherit the limit."""
    limit = struct.pack("ll", server.cfg.timeout, 0)
    for listener in server.LISTENERS:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def post_worker_init(worker: Any) -> None:
    """Read the whole request before one of the few threads works on it."""
    if not hasattr(worker, "wsgi"):  # an ASGI worker waits by itself
        return
    work, working = worker.wsgi, ThreadPoolExecutor(WORKING)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ.get("CONTENT_LENGTH"):
            body = SpooledTemporaryFile(2**16)
            copyfileobj(environ["wsgi.input"], body)
            body.seek(0)
            environ["wsgi.input"] = body
        return working.submit(work, environ, start_response).result()

    worker.wsgi = application
