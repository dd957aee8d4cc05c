"""The embedded broker's kombu transport and result backend: they start it when they connect."""

import socket
from pathlib import Path
from typing import Any

from celery.backends.redis import RedisBackend

from scheduling.broker import server, waiting


class StartsServer:
    """A connection that starts the server if there is none."""

    path: str
    directory: str

    def __init__(self, *args: Any, directory: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.directory = directory

    def _connect(self) -> socket.socket:
        try:
            server.check_socket(Path(self.path))
            return super()._connect()  # type: ignore[misc, no-any-return]
        except (FileNotFoundError, ConnectionRefusedError):
            server.start(Path(self.directory))
            server.check_socket(Path(self.path))
            return super()._connect()  # type: ignore[misc, no-any-return]


def that_starts_server(connection_class: type) -> type:
    return type("Connection", (StartsServer, connection_class), {})


class Channel(waiting.Channel):
    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params = super()._connparams(asynchronous)
        return params | {"connection_class": that_starts_server(params["connection_class"])}


class Transport(waiting.Transport):
    """The Redis transport, connected to the embedded server."""

    Channel = Channel


class ResultBackend(RedisBackend):
    """Celery's Redis backend, connected to the embedded server."""

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        params: Any = super()._params_from_url(url, defaults)  # type: ignore[misc]  # no types
        params["connection_class"] = that_starts_server(params["connection_class"])
        return dict(params)
