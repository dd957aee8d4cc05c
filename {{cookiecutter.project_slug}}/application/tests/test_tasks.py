"""Mails, sent to a real SMTP server of the tests' own."""

import smtplib
import socket
import ssl
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from pytest_django import Settings

from application.tasks import PermanentMailError, TemporaryMailError, may_pass, send_email_task

OK = "250 OK"
RECIPIENT = "user@example.com"


class Mailbox:
    """A mail server's answers, which a test sets, and what the server was asked and took."""

    def __init__(self) -> None:
        self.rcpt: list[str] = []  # one answer per attempt, OK when they are used up
        self.data: list[str] = []
        self.attempts = 0
        self.mails: list[Message] = []

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        self.attempts += 1
        answer = self.rcpt.pop(0) if self.rcpt else OK
        if answer == OK:
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        answer = self.data.pop(0) if self.data else OK
        if answer == OK:
            self.mails.append(message_from_bytes(envelope.content))
        return answer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def mailbox(settings: Settings) -> Iterator[Mailbox]:
    mailbox = Mailbox()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
    settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
    settings.DEFAULT_FROM_EMAIL = "The portal <portal@mail.example>"
    controller = Controller(mailbox, hostname="127.0.0.1", port=settings.EMAIL_PORT)
    controller.start()
    yield mailbox
    controller.stop()


def test_a_mail_is_sent(mailbox: Mailbox) -> None:
    send_email_task.apply(args=(RECIPIENT, "Hello", "Good morning")).get()

    [mail] = mailbox.mails
    assert (mail["To"], mail["Subject"]) == (RECIPIENT, "Hello")
    assert mail.get_payload() == "Good morning\r\n"


def test_a_mail_has_the_same_message_id_when_its_task_runs_twice(mailbox: Mailbox) -> None:
    for _ in range(2):
        send_email_task.apply(args=(RECIPIENT,), task_id="some-id").get()

    assert [mail["Message-ID"] for mail in mailbox.mails] == ["<some-id@mail.example>"] * 2


def test_a_plain_call_sends_too(mailbox: Mailbox) -> None:
    send_email_task(RECIPIENT)

    assert len({mail["Message-ID"] for mail in mailbox.mails}) == 1


@pytest.mark.parametrize(
    ("stage", "answer"),
    [
        ("rcpt", "450 Mailbox busy"),
        ("rcpt", "421 Shutting down"),
        ("data", "451 Try again later"),
        ("data", "452 Disk full"),
    ],
)
def test_a_temporary_refusal_is_retried_until_the_mail_is_taken(
    mailbox: Mailbox, stage: str, answer: str
) -> None:
    setattr(mailbox, stage, [answer, answer])

    send_email_task.apply(args=(RECIPIENT,), task_id="some-id").get()

    assert mailbox.attempts == 3
    assert [mail["Message-ID"] for mail in mailbox.mails] == ["<some-id@mail.example>"]


def test_a_refusal_that_does_not_pass_ends_when_the_retries_are_used_up(mailbox: Mailbox) -> None:
    attempts = 1 + (send_email_task.max_retries or 0)
    mailbox.rcpt = ["450 Mailbox busy"] * (attempts + 1)

    result = send_email_task.apply(args=(RECIPIENT,))

    assert isinstance(result.result, TemporaryMailError)
    assert "Mailbox busy" in str(result.result)
    assert mailbox.attempts == attempts > 1


def test_a_server_that_does_not_answer_is_tried_again(settings: Settings) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()

    result = send_email_task.apply(args=(RECIPIENT,))

    assert isinstance(result.result, TemporaryMailError)
    assert "refused" in str(result.result)


@pytest.mark.parametrize(
    ("stage", "answer"),
    [("rcpt", "550 No such user"), ("rcpt", "553 Not allowed"), ("data", "554 Spam")],
)
def test_a_permanent_refusal_fails_at_once(mailbox: Mailbox, stage: str, answer: str) -> None:
    setattr(mailbox, stage, [answer])

    result = send_email_task.apply(args=(RECIPIENT,))

    assert isinstance(result.result, PermanentMailError)
    assert f"Mail to {RECIPIENT} was not sent" in str(result.result)
    assert answer.partition(" ")[2] in str(result.result)
    assert (mailbox.attempts, mailbox.mails) == (1, [])


@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "not an address",
        "user@",
        "user@example.com, other@example.com",
        "User <user@example.com>",
        "user@example.com\n",
        "a@b\nBcc: x@y.z",
    ],
)
def test_a_malformed_recipient_fails_without_an_attempt(mailbox: Mailbox, recipient: str) -> None:
    result = send_email_task.apply(args=(recipient,))

    assert isinstance(result.result, PermanentMailError)
    assert str(result.result) == f"{recipient!r} is not an e-mail address"
    assert mailbox.attempts == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (socket.gaierror("Name or service not known"), True),
        (ssl.SSLError("record layer failure"), True),
        (ssl.SSLCertVerificationError("self-signed certificate"), False),
        (smtplib.SMTPServerDisconnected("Connection unexpectedly closed"), True),
        (smtplib.SMTPConnectError(421, "Too many connections"), True),
        (smtplib.SMTPConnectError(554, "Go away"), False),
        (smtplib.SMTPAuthenticationError(454, b"Try again later"), True),
        (smtplib.SMTPAuthenticationError(535, b"Wrong password"), False),
        (smtplib.SMTPSenderRefused(451, b"Try again later", "portal@mail.example"), True),
        (smtplib.SMTPSenderRefused(550, b"Not you", "portal@mail.example"), False),
        (smtplib.SMTPDataError(499, b"The last of the temporary"), True),
        (smtplib.SMTPDataError(500, b"The first of the permanent"), False),
        (smtplib.SMTPRecipientsRefused({RECIPIENT: (450, b"Busy")}), True),
        (smtplib.SMTPRecipientsRefused({RECIPIENT: (550, b"Unknown")}), False),
        (smtplib.SMTPRecipientsRefused({"a@b.c": (450, b""), "d@e.f": (550, b"")}), False),
        (smtplib.SMTPNotSupportedError("No STARTTLS"), False),
    ],
    ids=repr,
)
def test_connections_time_outs_and_4xx_may_pass(error: OSError, expected: bool) -> None:
    assert may_pass(error) is expected
