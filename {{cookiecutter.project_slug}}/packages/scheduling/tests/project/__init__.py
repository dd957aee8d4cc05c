"""A small Django project of the engine's own: its tests need no service around it."""

from tests.project.celery import app as celery_app

__all__ = ("celery_app",)
