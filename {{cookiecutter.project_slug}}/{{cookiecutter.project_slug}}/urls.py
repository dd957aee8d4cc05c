from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from scheduling.monitoring.metrics import metrics

admin.site.site_header = admin.site.site_title = settings.PROJECT_NAME

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("health/", include("scheduling.monitoring.health")),
    path("metrics", metrics),
]
