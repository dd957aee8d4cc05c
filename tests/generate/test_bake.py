"""What generating does: files, answers as data, refusals."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.project import ENGINE, OUTPUT, TEMPLATE, Project

SERVICE_FILES = """
.dockerignore .env.example .github/dependabot.yml .github/workflows/ci.yml .gitignore
.pre-commit-config.yaml Dockerfile Makefile README.md SECURITY.md accounts/__init__.py
accounts/admin.py accounts/apps.py accounts/migrations/0001_initial.py
accounts/migrations/__init__.py accounts/models.py application/__init__.py application/schedules.py
application/tasks.py application/tests/__init__.py application/tests/test_schedules.py
application/tests/test_tasks.py architecture_portal/__init__.py architecture_portal/asgi.py
architecture_portal/celery.py architecture_portal/environment.py architecture_portal/settings.py
architecture_portal/urls.py architecture_portal/wsgi.py compose.yaml deploy/kubernetes.yaml
deploy/kustomization.yaml gunicorn.conf.py manage.py pyproject.toml tests/test_security.py
tests/test_settings.py
""".split()
ENGINE_FILES = """
README.md docs/first-week.md docs/guarantees.md docs/operations.md docs/production.md
docs/schedules.md docs/security.md pyproject.toml scheduling/__init__.py
scheduling/admin/__init__.py scheduling/admin/actions.py scheduling/admin/cells.py
scheduling/admin/charts.py scheduling/admin/forms.py scheduling/admin/preview.py
scheduling/admin/requests.py scheduling/admin/runs.py scheduling/admin/schedules.py
scheduling/admin/timeline.py scheduling/admin/timings.py scheduling/apps.py
scheduling/beat/__init__.py scheduling/beat/batch.py scheduling/beat/claim.py
scheduling/beat/copies.py scheduling/beat/due_queue.py scheduling/beat/insertion.py
scheduling/beat/recovery.py scheduling/beat/scheduler.py scheduling/broker/__init__.py
scheduling/broker/__main__.py scheduling/broker/batches.py scheduling/broker/embedded.py
scheduling/broker/results.py scheduling/broker/server.py scheduling/broker/unreadable.py
scheduling/broker/waiting.py scheduling/change_log.py scheduling/conf.py scheduling/database.py
scheduling/declare/__init__.py scheduling/declare/checks.py scheduling/declare/discovery.py
scheduling/declare/queues.py scheduling/declare/schedule.py scheduling/defaults.py
scheduling/formatting.py scheduling/logs.py scheduling/management/__init__.py
scheduling/management/breakpoint.py scheduling/management/commands/__init__.py
scheduling/management/commands/dev.py scheduling/management/commands/probe.py
scheduling/management/commands/run_schedule.py scheduling/management/commands/schedules.py
scheduling/management/commands/seed_schedules.py scheduling/management/supervisor.py
scheduling/messages.py scheduling/migrations/0001_initial.py scheduling/migrations/__init__.py
scheduling/models.py scheduling/monitoring/__init__.py scheduling/monitoring/access.py
scheduling/monitoring/health.py scheduling/monitoring/metrics.py scheduling/mypy_plugin.py
scheduling/one_off.py scheduling/operations.py scheduling/py.typed scheduling/runs/__init__.py
scheduling/runs/nodes.py scheduling/runs/queries.py scheduling/runs/status.py
scheduling/schedules.py scheduling/static/scheduling/preview.js
scheduling/static/scheduling/schedules.css scheduling/sync/__init__.py scheduling/sync/apply.py
scheduling/sync/plan.py scheduling/sync/report.py scheduling/tasks.py
scheduling/templates/scheduling/base.html scheduling/templates/scheduling/change_form.html
scheduling/templates/scheduling/change_list.html scheduling/templates/scheduling/confirmation.html
scheduling/templates/scheduling/preview.html scheduling/templates/scheduling/timeline.html
scheduling/testing.py scheduling/timing.py scheduling/worker/__init__.py
scheduling/worker/annotations.py scheduling/worker/consumer.py scheduling/worker/development.py
scheduling/worker/heartbeat.py scheduling/worker/ledger.py scheduling/worker/recorder.py
scheduling/worker/reporting.py scheduling/worker/request.py scheduling/worker/signals.py
tests/__init__.py tests/admin/__init__.py tests/admin/conftest.py tests/admin/pages.py
tests/admin/test_actions.py tests/admin/test_forms.py tests/admin/test_matrix.py
tests/admin/test_policy.py tests/admin/test_preview.py tests/admin/test_requests.py
tests/admin/test_schedules.py tests/admin/test_timeline.py tests/admin/test_timings.py
tests/beat/__init__.py tests/beat/in_process.py tests/beat/test_batch.py tests/beat/test_changes.py
tests/beat/test_copies.py tests/beat/test_recovery.py tests/beat/test_scheduler.py
tests/beat/test_stock.py tests/broker/__init__.py tests/broker/test_server.py
tests/broker/test_unreadable.py tests/broker/test_waiting.py tests/conftest.py
tests/declare/__init__.py tests/declare/test_checks.py tests/declare/test_discovery.py
tests/declare/test_queues.py tests/declare/test_schedule.py tests/factories.py
tests/management/__init__.py tests/management/test_dev.py tests/management/test_run_schedule.py
tests/management/test_schedules.py tests/management/test_supervisor.py tests/monitoring/__init__.py
tests/monitoring/test_health.py tests/monitoring/test_health_schedules.py
tests/monitoring/test_metrics.py tests/project/__init__.py tests/project/celery.py
tests/project/settings.py tests/project/tasks.py tests/project/urls.py tests/runs/__init__.py
tests/runs/test_queries.py tests/runs/test_status.py tests/sync/__init__.py tests/sync/test_sync.py
tests/test_database.py tests/test_defaults.py tests/test_formatting.py tests/test_logs.py
tests/test_messages.py tests/test_one_off.py tests/test_tasks.py tests/test_testing.py
tests/test_timing.py tests/worker/__init__.py tests/worker/test_consumer.py
tests/worker/test_development.py tests/worker/test_ledger.py tests/worker/test_replace.py
tests/worker/test_reporting.py tests/worker/test_request.py tests/worker/test_signals.py
""".split()

SECRET = re.compile(
    r"""(?mx)
    ^\s*[\w.]*(SECRET|PASSWORD|TOKEN|API_?KEY)\w*\s*[:=]\s*["']?[\w+/.-]{6,}["']?\s*$
    | SECRET_KEY\ =\ ["'] | PRIVATE\ KEY----- | \bAKIA[0-9A-Z]{16}\b | \bgh[pousr]_\w{30}
    """
)

HOSTILE = [
    'He said "hi"',
    "It's",
    'It\'s "both" \\ and "more"',
    "C:\\new\\table\\",
    "{a} {% b %} {# c #} %s",
    "${HOME} `id` $(id)",
    "{% if %}",
    "</title><script>alert(1)</script>",
    "Café 🚀 日本 👩‍👩‍👧",
    "# * _ [x](y) | ~ & <b>",
    'x" + str(print("PWNED")) + "',
    "'''\"\"\"",
    "- !!python/object:os.system",
]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file, without what Python caches in a working tree."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }


def generate(
    output: Path, *arguments: str, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Cookiecutter as a process of its own, with the answers as arguments."""
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "-o", str(output)]
    return subprocess.run(
        [*command, *arguments],
        env={"HOME": str(output), "COOKIECUTTER_CONFIG": os.devnull} | (env or {}),
        capture_output=True,
        text=True,
        timeout=60,
        input="",
    )


FILES = sorted(SERVICE_FILES + [f"{ENGINE}/{name}" for name in ENGINE_FILES])


def test_a_bake_has_exactly_these_files(bake: Callable[..., Project]) -> None:
    assert sorted(contents(bake().path)) == FILES


def test_a_service_can_be_read_in_one_sitting(bake: Callable[..., Project]) -> None:
    """What is the team's, without the engine."""
    project = bake()
    lines = {
        name: content.count(b"\n")
        for name, content in contents(project.path).items()
        if not name.startswith("packages/")
    }

    assert len(lines) < 45
    assert sum(lines.values()) < 2200
    assert lines["README.md"] < 120
    assert lines[f"{project.slug}/settings.py"] < 200


def test_the_engine_is_the_same_in_every_service(bake: Callable[..., Project]) -> None:
    """No answer reaches it, so it can be installed from this repository as it stands."""
    answers = {"project_name": "Other", "description": "Other.", "timezone": "Asia/Tokyo"}

    engine = contents(bake(**answers, author_name="Other").engine)

    assert engine == contents(bake().engine) == contents(OUTPUT / ENGINE)


def test_no_mark_of_the_template_is_left(bake: Callable[..., Project]) -> None:
    for name, content in contents(bake().path).items():
        own = b"" if name.startswith(".github/") else rb"|\{\{"  # GitHub's marks are braces too
        if not name.startswith(ENGINE):  # which is copied as it is
            assert not re.search(rb"cookiecutter|\[\[%|\[\[#" + own, content), name


def test_equal_answers_give_equal_bytes(bake: Callable[..., Project]) -> None:
    assert contents(bake().path) == contents(bake().path)


@pytest.mark.parametrize("hooks", ["yes", "no"])
def test_generating_needs_no_network_and_no_tool(
    tmp_path: Path, bake: Callable[..., Project], hooks: str
) -> None:
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "all")}

    done = generate(
        tmp_path, "--no-input", "--accept-hooks", hooks, env=nowhere | {"PATH": str(tmp_path)}
    )

    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "architecture_portal") == contents(bake().path)


@pytest.mark.parametrize("text", HOSTILE)
def test_answers_are_data(bake: Callable[..., Project], text: str) -> None:
    project = bake(
        project_name=text, project_slug="hostile", description=text, author_name=text
    ).path

    modules = {file: ast.parse(file.read_text()) for file in project.rglob("*.py")}
    settings = modules[project / "hostile/settings.py"]
    names = [
        ast.literal_eval(node.value)
        for node in settings.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PROJECT_NAME"
    ]
    assert names == [text]
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert metadata["description"] == text
    assert metadata["authors"] == [{"name": text, "email": "you@example.com"}]
    readme = (project / "README.md").read_text()
    assert not re.search(r"(?<!\\)<script>", readme)
    assert readme.splitlines()[0].replace("\\", "") == "# " + text.replace("\\", "")


def test_without_the_hook_too_answers_neither_run_nor_break(tmp_path: Path) -> None:
    bad = 'x" + str(print("PWNED")) + "\n\t\\'

    done = generate(
        tmp_path,
        *("--no-input", "--accept-hooks", "no", "project_slug=hostile"),
        *(f"{field}={bad}" for field in ("project_name", "description", "author_name")),
        *(f"{field}={bad}" for field in ("author_email", "timezone")),
    )

    assert done.returncode == 0, done.stderr
    for file in (tmp_path / "hostile").rglob("*.py"):
        tree = ast.parse(file.read_text())
        assert not any(
            isinstance(node, ast.Constant) and node.value == "PWNED" for node in ast.walk(tree)
        ), file
    tomllib.loads((tmp_path / "hostile/pyproject.toml").read_text())


REFUSED = [
    ({"project_slug": "Portal"}, "start with a letter a-z"),
    ({"project_slug": "1st"}, "start with a letter a-z"),
    ({"project_slug": "_x"}, "start with a letter a-z"),
    ({"project_slug": "x_"}, "do not end with _"),
    ({"project_slug": "my-portal"}, "start with a letter a-z"),
    ({"project_slug": "my portal"}, "start with a letter a-z"),
    ({"project_slug": "pörtal"}, "start with a letter a-z"),
    ({"project_slug": "x\n"}, "U+000A"),
    ({"project_slug": "x" * 31}, "write at most 30"),
    ({"project_slug": "class"}, "Python keyword"),
    ({"project_slug": "json"}, "module of Python"),
    ({"project_slug": "cgi"}, "module of Python"),
    ({"project_slug": "compression"}, "module of Python"),
    ({"project_slug": "test"}, "package that the service uses"),
    ({"project_slug": "celery"}, "package that the service uses"),
    ({"project_slug": "deploy"}, "package that the service uses"),
    ({"project_slug": "django"}, "package that the service uses"),
    ({"project_slug": "redis"}, "package that the service uses"),
    ({"project_slug": "application"}, "package that the service uses"),
    ({"project_slug": "scheduling"}, "package that the service uses"),
    ({"project_slug": "tests"}, "package that the service uses"),
    ({"project_slug": "packages"}, "package that the service uses"),
    ({"project_slug": "async_timeout"}, "package that the service uses"),
    ({"project_name": " "}, "is empty"),
    ({"project_name": "x" * 41}, "write at most 40"),
    ({"project_name": "a\tb"}, "U+0009"),
    ({"project_name": "a\x00b"}, "U+0000"),
    ({"project_name": "a\u202eb"}, "U+202E"),
    ({"project_name": "{{ '{{' }} 7*7 }}"}, "renders at every update"),
    ({"description": "one\ntwo"}, "U+000A"),
    ({"description": "x" * 201}, "write at most 200"),
    ({"author_name": ""}, "is empty"),
    ({"author_email": "ada"}, "not an e-mail address"),
    ({"author_email": "ada@localhost"}, "not an e-mail address"),
    ({"author_email": "a b@example.com"}, "not an e-mail address"),
    ({"author_email": 'a"@example.com'}, "not an e-mail address"),
    ({"author_email": "ada@-example.com"}, "not an e-mail address"),
    ({"author_email": "ada..b@example.com"}, "not an e-mail address"),
    ({"author_email": "ada@bücher..example"}, "not an e-mail address"),
    ({"timezone": "Berlin"}, "not a time zone"),
    ({"timezone": "../etc/passwd"}, "not a time zone"),
    ({"timezone": ""}, "not a time zone"),
]


@pytest.mark.parametrize(("answers", "reason"), REFUSED)
def test_what_cannot_work_is_refused_in_one_line(
    cookies: Any, capfd: pytest.CaptureFixture[str], answers: dict[str, str], reason: str
) -> None:
    result = cookies.bake(extra_context={"project_slug": "portal"} | answers)

    assert str(result.exception) == "Hook script failed (exit status: 1)"
    [line] = [line for line in capfd.readouterr().err.splitlines() if reason in line]
    [field] = answers
    assert line.startswith(f"{field} ")
    assert not list(Path(cookies._new_output_dir()).parent.rglob("*.py"))


@pytest.mark.parametrize("slug", ["a/b", "../evil", "a\\b", "", ".", ".."])
def test_a_slug_that_is_a_path_is_refused_before_anything_is_made(
    tmp_path: Path, slug: str
) -> None:
    output = tmp_path / "below/output"
    output.mkdir(parents=True)

    done = generate(output, "--no-input", f"project_slug={slug}")

    assert done.returncode != 0
    assert "write a Python package name, not a path" in done.stderr.splitlines()[-1]
    assert [path for path in tmp_path.rglob("*") if ".cookie" not in str(path)] == [
        tmp_path / "below",
        output,
    ]


def test_git_would_track_no_secret(bake: Callable[..., Project]) -> None:
    project = bake().path
    shutil.copy(project / ".env.example", project / ".env")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)

    listed = subprocess.run(
        ["git", "ls-files"], cwd=project, check=True, capture_output=True, text=True
    ).stdout.split()

    assert sorted(listed) == FILES
    for name in listed:
        if "tests" not in name.split("/"):
            text = (project / name).read_text()
            assert not re.search(SECRET, text), name
            passwords = re.findall(r"\w://\w*:([^@\s]+)@", re.sub(r"\$\{[^}]*\}", "", text))
            assert set(passwords) <= {"password"}, name


@pytest.mark.parametrize(
    "line",
    [
        "SECRET_KEY=abcdefgh",
        'SECRET_KEY = "x"',
        "POSTGRES_PASSWORD: hunter22",
        "  API_KEY: 'abc.def-ghi'",
        "-----BEGIN RSA PRIVATE KEY-----",
        "AKIA" + "A" * 16,
    ],
)
def test_a_secret_would_be_found(line: str) -> None:
    assert re.search(SECRET, f"DEBUG=true\n{line}\nLOG_LEVEL=INFO\n")
