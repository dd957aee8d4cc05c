"""What generating does: files, answers as data, refusals."""

import ast
import json
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

from conftest import TEMPLATE, Project

FILES = """
.dockerignore .env.example .github/dependabot.yml .github/workflows/ci.yml .gitignore
.pre-commit-config.yaml Dockerfile Makefile README.md SECURITY.md application/__init__.py
application/schedules.py application/tasks.py application/tests/__init__.py
application/tests/test_schedules.py application/tests/test_tasks.py architecture_portal/__init__.py
architecture_portal/asgi.py architecture_portal/celery.py architecture_portal/settings.py
architecture_portal/urls.py architecture_portal/wsgi.py compose.yaml deploy/kubernetes.yaml
deploy/kustomization.yaml manage.py pyproject.toml scheduling/__init__.py scheduling/admin.py
scheduling/apps.py scheduling/broker.py scheduling/checks.py scheduling/due.py scheduling/forms.py
scheduling/health.py scheduling/heap.py scheduling/history.py scheduling/lateness.py
scheduling/levers.py scheduling/logs.py scheduling/management/__init__.py
scheduling/management/commands/__init__.py scheduling/management/commands/dev.py
scheduling/management/commands/schedules.py scheduling/management/commands/seed_schedules.py
scheduling/metrics.py scheduling/migrations/0001_initial.py scheduling/migrations/0002_history.py
scheduling/migrations/__init__.py scheduling/models.py scheduling/pictures.py
scheduling/registry.py scheduling/results.py scheduling/schedule.py scheduling/scheduler.py
scheduling/schedules.py scheduling/seed.py scheduling/static/scheduling/preview.js
scheduling/static/scheduling/schedules.css scheduling/tasks.py
scheduling/templates/scheduling/base.html scheduling/templates/scheduling/change_form.html
scheduling/templates/scheduling/change_list.html
scheduling/templates/scheduling/confirmation.html scheduling/templates/scheduling/preview.html
scheduling/templates/scheduling/timeline.html scheduling/tests/__init__.py scheduling/tests/beat.py
scheduling/tests/conftest.py scheduling/tests/test_admin.py scheduling/tests/test_broker.py
scheduling/tests/test_checks.py scheduling/tests/test_due.py scheduling/tests/test_health.py
scheduling/tests/test_health_schedules.py scheduling/tests/test_history.py
scheduling/tests/test_lateness.py scheduling/tests/test_logs.py scheduling/tests/test_metrics.py
scheduling/tests/test_registry.py scheduling/tests/test_schedule.py
scheduling/tests/test_scheduler.py scheduling/tests/test_schedules_command.py
scheduling/tests/test_security.py scheduling/tests/test_seed.py scheduling/tests/test_settings.py
scheduling/tests/test_transport.py scheduling/tests/test_words.py scheduling/transport.py
scheduling/words.py scheduling/worker.py
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
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
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


def test_a_bake_has_exactly_these_files(bake: Callable[..., Project]) -> None:
    assert sorted(contents(bake().path)) == sorted(FILES)


def test_no_mark_of_the_template_is_left(bake: Callable[..., Project]) -> None:
    for name, content in contents(bake().path).items():
        own = b"" if name.startswith(("scheduling/templates/", ".github/")) else rb"|\{\{"  # theirs
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
    ({"project_slug": "test"}, "package that the service uses"),
    ({"project_slug": "celery"}, "package that the service uses"),
    ({"project_slug": "deploy"}, "package that the service uses"),
    ({"project_slug": "django"}, "package that the service uses"),
    ({"project_slug": "redis"}, "package that the service uses"),
    ({"project_slug": "application"}, "package that the service uses"),
    ({"project_slug": "scheduling"}, "package that the service uses"),
    ({"project_slug": "tests"}, "package that the service uses"),
    ({"project_name": " "}, "is empty"),
    ({"project_name": "x" * 41}, "write at most 40"),
    ({"project_name": "a\tb"}, "U+0009"),
    ({"project_name": "a\x00b"}, "U+0000"),
    ({"project_name": "a\u202eb"}, "U+202E"),
    ({"project_name": "{{ '{{' }} 7*7 }}"}, "renders at every update"),
    ({"description": "one\ntwo"}, "U+000A"),
    ({"description": "x" * 201}, "write at most 200"),
    ({"author_name": ""}, "is empty"),
    ({"author_email": "ada"}, "no e-mail address"),
    ({"author_email": "ada@localhost"}, "no e-mail address"),
    ({"author_email": "a b@example.com"}, "no e-mail address"),
    ({"author_email": 'a"@example.com'}, "no e-mail address"),
    ({"author_email": "ada@-example.com"}, "no e-mail address"),
    ({"author_email": "ada..b@example.com"}, "no e-mail address"),
    ({"timezone": "Berlin"}, "no time zone"),
    ({"timezone": "../etc/passwd"}, "no time zone"),
    ({"timezone": ""}, "no time zone"),
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


def test_every_package_of_the_service_is_refused_as_a_slug(environment: Path) -> None:
    code = """
import importlib.metadata as metadata, json
names = {d.name.lower().replace("-", "_").replace(".", "_") for d in metadata.distributions()}
print(json.dumps(sorted(names | set(metadata.packages_distributions()))))
"""
    printed = subprocess.run(
        [environment / "bin/python", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    hook = (TEMPLATE / "hooks/pre_gen_project.py").read_text()
    taken = hook.partition('TAKEN = set(\n    """')[2].partition('"""')[0].split()

    possible = {name for name in json.loads(printed) if re.fullmatch("[a-z][a-z0-9_]*", name)}

    assert possible - set(taken) == set()
    assert taken == sorted(taken)


def test_git_would_track_no_secret(bake: Callable[..., Project]) -> None:
    project = bake().path
    shutil.copy(project / ".env.example", project / ".env")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)

    listed = subprocess.run(
        ["git", "ls-files"], cwd=project, check=True, capture_output=True, text=True
    ).stdout.split()

    assert sorted(listed) == sorted(FILES)
    for name in listed:
        if "/tests/" not in name:
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
