"""A mail server that writes down what arrives, and lets mails wait for its answer."""

import subprocess
from pathlib import Path

from tests.harness.processes import free_port

SERVER = """
import asyncio, email, sys
from pathlib import Path
from aiosmtpd.controller import Controller

folder = Path(sys.argv[2])

class Keep:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content)
        with (folder / "arrived").open("a") as file:
            file.write(f"{mail['To']} {mail['Message-ID']}\\n")
        await asyncio.sleep(0.05)
        while (folder / "hold").exists():
            await asyncio.sleep(0.05)
        return "250 OK"

Controller(Keep(), hostname="127.0.0.1", port=int(sys.argv[1])).start()
sys.stdin.read()
"""


def task_of(message_id: str) -> str:
    """The id of the task that sent a mail."""
    return message_id[1:].partition("@")[0]


class MailServer:
    """``url`` is where it listens; while the file ``hold`` exists, no mail is answered."""

    def __init__(self, python: Path, folder: Path) -> None:
        port = free_port()
        self.url = f"smtp://127.0.0.1:{port}"
        self.hold, self.file = folder / "hold", folder / "arrived"
        self.process = subprocess.Popen(
            [str(python), "-c", SERVER, str(port), str(folder)], stdin=subprocess.PIPE
        )

    def arrived(self) -> list[tuple[str, str]]:
        """Recipient and Message-ID of each mail, in their order."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [(recipient, found) for recipient, found in map(str.split, lines)]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
