"""With a router that puts beat's tables into a second database, nothing looks for them elsewhere.

A test that is marked with one database fails at a query of the other.
"""

from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
import time_machine
from celery.signals import beat_init
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks
from pytest_django import Settings

from scheduling import operations, run_at
from scheduling.declare import discovery
from scheduling.management.commands.dev import migrate
from scheduling.models import Node, Pause, Run
from scheduling.monitoring import health
from scheduling.one_off import delete
from scheduling.sync.apply import seed
from scheduling.tasks import clean_up_history
from tests.admin.pages import LIST, TIMELINE, choose, messages, page_of, text_of
from tests.beat.in_process import Beat
from tests.factories import DAY, HOUR, MINUTE, NOON, every, make, store
from tests.project.tasks import remind

SECOND_ONLY = pytest.mark.django_db(databases=["second"], transaction=True)
BOTH = pytest.mark.django_db(databases=["default", "second"])
APPS = {"django_celery_beat", "scheduling"}
CLEAN_UP = "Clean up the run history"


class Router:
    """Puts the tables of some apps into the second database."""

    def __init__(self, apps: set[str] = APPS) -> None:
        self.apps = apps

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "second" if model._meta.app_label in self.apps else None

    db_for_read = db_for_write

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return (db == "second") == (app_label in self.apps)


class RouterToReplica(Router):
    """Reads elsewhere, where what was just written may be missing."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "default" if model._meta.app_label in self.apps else None

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool:
        return True


@pytest.fixture(autouse=True)
def router(settings: Settings) -> None:
    settings.DATABASE_ROUTERS = [Router()]
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick


@pytest.fixture(params=[Router, RouterToReplica])
def with_replica_too(request: pytest.FixtureRequest, settings: Settings) -> None:
    """For what decides by what it reads."""
    settings.DATABASE_ROUTERS = [request.param()]


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


def rows() -> Any:
    return PeriodicTask.objects.using("second")


def make_row(name: str, **columns: Any) -> None:
    """Not by ``save()``: it asks the replica whether the name is taken."""
    PeriodicTask.objects.bulk_create([PeriodicTask(name=name, task=remind.name, **columns)])
    PeriodicTasks.update_changed()


@SECOND_ONLY
@pytest.mark.usefixtures("with_replica_too")
def test_beats_share_the_runs(clock: time_machine.Traveller) -> None:
    crowd = [Beat(), Beat()]
    crowd[1].sent = crowd[0].sent
    for beat in crowd:
        beat.run()
    interval = IntervalSchedule.objects.create(every=1, period="minutes")
    make_row("Row", interval=interval, args='["a"]')
    for _ in range(4):
        for beat in crowd:
            beat.run()
        clock.shift(MINUTE)

    assert [sent.due for sent in crowd[0].sent] == [NOON + n * MINUTE for n in (1, 2, 3)]
    assert rows().get().total_run_count == 3
    assert Node.objects.using("second").exists()


@SECOND_ONLY
@pytest.mark.usefixtures("with_replica_too")
def test_schedules_are_seeded_once_and_deleted() -> None:
    declared = discovery.declared()

    assert [change.is_pending for change in seed(declared)] == [True]
    assert [change.is_pending for change in seed(declared)] == [False]
    assert rows().get().name == CLEAN_UP
    seed([])
    assert not rows().exists()


@BOTH
@pytest.mark.usefixtures("with_replica_too")
def test_migrate_seeds_where_the_tables_are() -> None:
    call_command("migrate", verbosity=0)
    assert not rows().exists()

    call_command("migrate", database="second", verbosity=0)
    assert rows().get().name == CLEAN_UP


@BOTH
def test_dev_migrates_both() -> None:
    migrate()

    assert rows().get().name == CLEAN_UP


@SECOND_ONLY
@pytest.mark.usefixtures("with_replica_too")
def test_operators_pause_resume_and_reset() -> None:
    seed(discovery.declared())
    row = rows().get()

    assert operations.pause([row]) == operations.resume([row]) == [row]
    assert operations.pause_all() == [row]
    assert Pause.objects.using("second").exists()
    assert operations.resume_all() == [row]
    rows().update(priority=3)
    [change] = operations.reset(row.name)
    assert "priority 3" in change
    assert rows().get().priority is None


@SECOND_ONLY
def test_a_single_run_is_made_sent_and_deleted(clock: time_machine.Traveller) -> None:
    beat = Beat()
    row = run_at(remind, NOON + HOUR, args=["a"])
    with pytest.raises(ValueError, match="exists already"):
        run_at(remind, NOON + HOUR, args=["a"], name=row.name)
    clock.shift(HOUR)
    beat.run()
    delete(rows().get())

    assert len(beat.sent) == 1
    assert not rows().exists()


@SECOND_ONLY
@pytest.mark.usefixtures("with_replica_too")
def test_workers_record_runs_and_the_clean_up_deletes_them() -> None:
    store("Row", NOON - 15 * DAY, "retrying")
    store("Row", NOON - 15 * DAY, "started", "succeeded")

    run = Run.objects.using("second").get()
    assert run.started_at and run.finished_at

    assert clean_up_history.apply().get() == 1
    assert not Run.objects.using("second").exists()


@SECOND_ONLY
def test_commands_list_check_and_seed() -> None:
    call_command("seed_schedules", verbosity=0)
    call_command("seed_schedules", check=True, verbosity=0)
    store(CLEAN_UP, NOON, "started", "succeeded")
    listed = StringIO()
    call_command("schedules", stdout=listed)

    assert "succeeded" in listed.getvalue()


@BOTH
def test_the_admin_shows_and_steers_them(admin_client: Client) -> None:
    row = make("Row", **every(10))
    store("Row", NOON, "started", "succeeded")

    for page in (LIST, TIMELINE, page_of(row), reverse("admin:scheduling_pause_all")):
        assert admin_client.get(page).status_code == 200
    for action in ("pause", "resume"):
        choose(admin_client, action, row)
    assert "Paused with all: Row." in messages(
        admin_client.post(reverse("admin:scheduling_pause_all"), follow=True)
    )
    assert "Paused" in text_of(admin_client.get(page_of(row)))
    assert not PeriodicTask.objects.using("default").filter(name="Row").exists()


@BOTH
def test_probes_and_metrics_answer(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.METRICS_NETWORKS = ["127.0.0.1"]
    make("Row", **every(10))

    assert 'schedule_paused{schedule="Row"} 0.0' in text_of(client.get("/metrics"))
    health.database()
    told, _ = health.schedule_status(NOON, with_names=True)
    assert told["overdue"]["first"][0]["name"] == "Row"

    MigrationRecorder(connections["second"]).record_unapplied("scheduling", "0001_initial")
    with pytest.raises(health.NotReadyError, match="migrations not applied: 1"):
        health.database()


@SECOND_ONLY
def test_the_checks_ask_for_the_database_of_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_checks() == []

    monkeypatch.setattr(connections["default"], "vendor", "mysql")  # the project's other tables
    assert run_checks() == []

    monkeypatch.setattr(connections["second"], "vendor", "oracle")
    assert [message.id for message in run_checks()] == ["scheduling.E007"]


def test_tables_that_are_torn_apart_are_refused(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DATABASE_ROUTERS = [Router({"django_celery_beat"})]

    [error] = run_checks()

    assert (error.id, error.hint) == ("scheduling.E009", "Name one database for these apps.")
    assert "django_celery_beat in 'second', scheduling in 'default'" in error.msg
    with pytest.raises(SystemExit):
        beat_init.send(sender=None)
    assert error.msg in caplog.text


@SECOND_ONLY
def test_an_edit_of_a_row_ends_its_mark_of_pause_all() -> None:
    row = make("Row", **every(10))
    operations.pause_all()
    row.refresh_from_db()
    row.enabled = True
    row.save()

    assert not Pause.objects.exists()
