from typing import Any

from django.core.management.base import BaseCommand

from scheduling import registry, seed


class Command(BaseCommand):
    help = "Add the schedules that the apps' schedules.py declare and the database lacks."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(seed.report(seed.seed(registry.declared()), self.style))
