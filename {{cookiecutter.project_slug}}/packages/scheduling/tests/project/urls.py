from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from scheduling.monitoring.metrics import metrics


def who(request: HttpRequest) -> HttpResponse:
    """A page of the project's own, which needs a session."""
    return HttpResponse(str(request.user))


urlpatterns = [
    path("admin/", admin.site.urls),
    path("health/", include("scheduling.monitoring.health")),
    path("health/team", who),
    path("metrics", metrics),
]
