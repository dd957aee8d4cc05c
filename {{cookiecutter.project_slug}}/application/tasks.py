import smtplib
import ssl
from email.utils import parseaddr
from typing import Any

from celery import Task, shared_task
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.core.validators import validate_email
from django.utils.encoding import punycode


class TemporaryMailError(Exception):
    """The mail was not sent; a retry may succeed."""


class PermanentMailError(Exception):
    """The mail was not sent; a retry cannot succeed."""


def may_pass(error: OSError) -> bool:
    """Whether a retry may succeed: after connection errors, time-outs and SMTP's 4xx (RFC 5321)."""
    match error:
        case smtplib.SMTPRecipientsRefused(recipients=refused):
            return all(400 <= code < 500 for code, _ in refused.values())
        case smtplib.SMTPResponseException(smtp_code=code):
            return 400 <= code < 500
        case smtplib.SMTPServerDisconnected():
            return True
        case smtplib.SMTPException() | ssl.SSLCertVerificationError():
            return False
        case _:
            return True


@shared_task(  # may run for 5 minutes; soft_time_limit and time_limit give a task more
    bind=True,
    # Wait a random time of up to 5, 10, 20, ... seconds, at most 10 minutes: about an hour in all.
    autoretry_for=(TemporaryMailError,),
    retry_backoff=5,
    retry_backoff_max=600,
    retry_jitter=True,
    max_retries=18,
    default_retry_delay=5,  # seconds, after the process that was sending it was killed
)
def send_email_task(
    self: "Task[..., Any]",
    recipient: str,
    subject: str = "Reminder",
    message: str = "This is your reminder.",
) -> None:
    """Send one mail. Retries temporary failures; raises PermanentMailError at once for others."""
    try:
        validate_email(recipient)
    except ValidationError:
        raise PermanentMailError(f"{recipient!r} is not an e-mail address") from None

    mail = EmailMessage(subject, message, to=[recipient])
    if self.request.id:  # none when called as a plain function
        # If its worker dies, the task runs again, and the mail has the same Message-ID.
        domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2]
        mail.extra_headers["Message-ID"] = f"<{self.request.id}@{punycode(domain)}>"
    try:
        mail.send()
    except OSError as error:  # smtplib's exceptions are OSErrors too
        kind = TemporaryMailError if may_pass(error) else PermanentMailError
        raise kind(f"Mail to {recipient} was not sent: {error}") from error
