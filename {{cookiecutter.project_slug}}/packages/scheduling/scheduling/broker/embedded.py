"""The kombu transport of the embedded broker: it starts the server when it connects."""

import socket
from pathlib import Path
from typing import Any

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


class Channel(waiting.Channel):
    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params = super()._connparams(asynchronous)
        bases = (StartsServer, params["connection_class"])
        return params | {"connection_class": type("Connection", bases, {})}


class Transport(waiting.Transport):
    """The Redis transport, connected to the embedded server."""

    Channel = Channel
