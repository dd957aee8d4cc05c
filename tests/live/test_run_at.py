"""One run of a task at a time, with a real beat and worker."""

from tests.harness.processes import Live, wait_for

RUN_AT = """
from datetime import timedelta
from application.tasks import send_email_task
from django.utils import timezone
from scheduling import run_at
run_at(send_email_task, timezone.now() + timedelta(seconds=1), args=["once@example.com"], name="Once")
"""
ROWS = """
from django_celery_beat.models import ClockedSchedule, PeriodicTask
print(PeriodicTask.objects.filter(name="Once").count(), ClockedSchedule.objects.count())
"""
RUNS = "from scheduling.models import Run; print(list(Run.objects.values_list('schedule')))"
LATER = """
from application.tasks import send_email_task
try:
    send_email_task.apply_async(["late@example.com"], countdown=4000)
except ValueError as error:
    print(error)
"""


def test_a_task_runs_once_at_its_time_and_its_row_goes(live: Live) -> None:
    live.migrate()
    live.celery("worker", "--loglevel=info").wait_for("ready.")
    live.celery("beat", "--loglevel=info").wait_for("beat: Starting...")

    live.python(RUN_AT)

    wait_for(lambda: live.mailed_to("once@example.com"), "the mail")
    wait_for(lambda: live.python(ROWS).endswith("0 0\n"), "the row to go")
    assert "('Once',)" in live.python(RUNS)
    assert live.mailed_to("once@example.com") == 1


def test_what_the_broker_would_deliver_again_and_again_is_refused(live: Live) -> None:
    assert "Use scheduling.run_at(task, when)" in live.python(LATER)
