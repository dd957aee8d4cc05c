"""The generated service with real processes: brokers, beat, workers, terminals, a browser."""

import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.harness.processes import Live, processes_below, wait_for
from tests.harness.project import ENGINE

SUCCEEDED = "succeeded in"
SNIPPET = """
from django_celery_beat.models import PeriodicTask, IntervalSchedule

# Create interval schedule (every 10 minutes)
schedule, created = IntervalSchedule.objects.get_or_create(
    every=10,
    period=IntervalSchedule.MINUTES,
)

# Create periodic task
PeriodicTask.objects.create(
    interval=schedule,
    name='Send reminder emails',
    task='application.tasks.send_email_task',
    args='["user@example.com"]',
)
"""
SLOW_TASK = '''

@shared_task
def slow_task(folder: str) -> None:
    """Takes its time, and says when it started and when it was done."""
    Path(folder, "started").touch()
    time.sleep(5)
    Path(folder, "done").touch()
'''


def add_slow_task(live: Live) -> None:
    file = live.project.path / "application/tasks.py"
    file.write_text("import time\nfrom pathlib import Path\n" + file.read_text() + SLOW_TASK)


def start_slow_task(live: Live, folder: Path) -> None:
    live.python(f"from application.tasks import slow_task; slow_task.delay({str(folder)!r})")
    wait_for((folder / "started").exists, "the slow task to start")


@pytest.fixture(params=["embedded", "redis", "rabbitmq"])
def on_broker(request: pytest.FixtureRequest, live: Live) -> Live:
    if request.param != "embedded":
        live.env["CELERY_BROKER_URL"] = request.getfixturevalue(f"{request.param}_url")
    return live


def test_the_documents_commands_send_a_mail_on_schedule(on_broker: Live) -> None:
    on_broker.shorten_interval()
    on_broker.migrate()

    worker = on_broker.celery("worker", "--loglevel=info")
    beat = on_broker.celery("beat", "--loglevel=info")

    beat.wait_for("Sending due task Send reminder emails")
    worker.wait_for(SUCCEEDED)
    wait_for(lambda: on_broker.mailed_to("user@example.com"), "a mail")


def test_worker_and_beat_run_in_one_command(live: Live) -> None:
    live.shorten_interval()
    live.migrate()

    live.celery("worker", "--beat", "--loglevel=info").wait_for(SUCCEEDED)

    wait_for(lambda: live.mailed_to("user@example.com"), "a mail")


def test_the_documents_snippet_makes_a_schedule(live: Live) -> None:
    live.project.edit("application/schedules.py", '"Send reminder emails"', '"Another name"')
    live.migrate()

    live.python(SNIPPET)

    row = "PeriodicTask.objects.get(name='Send reminder emails')"
    printed = live.python(
        f"from django_celery_beat.models import PeriodicTask; print({row}.schedule.run_every)"
    )
    assert "0:10:00" in printed


@pytest.mark.parametrize("way", ["Ctrl-C", "SIGTERM", "closed terminal"])
def test_make_dev_lets_a_task_finish_and_leaves_nothing(
    live: Live, tmp_path: Path, way: str
) -> None:
    add_slow_task(live)
    dev = live.start_dev()
    assert f"Admin: http://127.0.0.1:{live.port}/admin/" in dev.output
    assert "superuser admin, password admin" in dev.output
    assert "Next: Send reminder emails" in dev.output
    assert "First start: Send reminder emails runs once now." in dev.output
    start_slow_task(live, tmp_path)

    match way:
        case "Ctrl-C":
            dev.press_ctrl_c()
        case "SIGTERM":
            os.kill(live.pids("python manage.py dev")[0], signal.SIGTERM)
        case "closed terminal":
            dev.close_window()

    dev.exit_code()
    wait_for(lambda: not processes_below(live.project.path), "all processes to end")
    assert (tmp_path / "done").exists()
    assert not list(live.project.path.rglob("*.sock"))


@pytest.mark.parametrize("part", ["celery -A {slug} beat", "celery -A {slug} worker", "runserver"])
def test_when_one_part_dies_all_stop_and_the_exit_code_says_so(live: Live, part: str) -> None:
    dev = live.start_dev()
    main = min(live.pids(part.format(slug=live.project.slug)))  # older than its pool

    os.kill(main, signal.SIGKILL)

    assert dev.exit_code() != 0
    assert "ended by itself" in dev.output
    wait_for(lambda: not processes_below(live.project.path), "all processes to end")


def test_code_changes_reach_the_worker_and_broken_code_does_not(live: Live) -> None:
    dev = live.start_dev()

    live.project.edit("application/tasks.py", "import smtplib", "import smtplib\nimport nonsense_")
    dev.wait_for("No module named 'nonsense_'")
    assert dev.output.count("ready.") == 1

    live.project.edit("application/tasks.py", "\nimport nonsense_", "")
    dev.wait_for("ready.", count=2)

    with (live.project.path / ENGINE / "scheduling/tasks.py").open("a") as file:
        file.write("# changed\n")
    dev.wait_for("ready.", count=3)


def test_whatever_is_killed_the_embedded_broker_joins_or_is_replaced(live: Live) -> None:
    live.shorten_interval()
    live.migrate()
    worker = live.celery("worker", "--loglevel=info", "--concurrency=2")
    live.celery("beat", "--loglevel=info")
    worker.wait_for(SUCCEEDED)

    for victim in ("unixsocket:", "-m scheduling.broker", "sh -c read"):
        before = worker.output.count(SUCCEEDED)
        # Those that came too late to start the server end at once.
        wait_for(partial(live.runs_once, victim), f"one {victim}")
        os.kill(live.pids(victim)[0], signal.SIGKILL)
        worker.wait_for(SUCCEEDED, count=before + 3)

    live.kill("celery", signal.SIGKILL)
    wait_for(lambda: not processes_below(live.project.path), "the broker to end", 15)


def test_a_production_shell_never_starts_the_embedded_broker(live: Live) -> None:
    result = live.project.run(
        "python", "manage.py", "check", env=live.env | {"DEBUG": "false"}, check=False
    )

    assert result.returncode != 0
    assert "CELERY_BROKER_URL: Environment variable not set." in result.stderr
    assert not (live.project.path / "var").exists()


def test_a_service_runs_from_a_path_that_is_long_and_odd(live: Live, tmp_path: Path) -> None:
    folder = tmp_path / "my project; 100% +é#?" / ("long" * 20)
    shutil.copytree(live.project.path, folder)
    live.move(folder)
    live.shorten_interval()
    live.migrate()

    live.celery("worker", "--beat", "--loglevel=info").wait_for(SUCCEEDED)
