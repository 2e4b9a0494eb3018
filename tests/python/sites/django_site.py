"""Django in one file, with the admin, for WSGI and ASGI. DATABASE names the file of its data."""

import os
import time

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import (
    FileResponse,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path as route
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt
from django.views.static import serve

from sites import seen

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"]}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "django.contrib.staticfiles",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    STATIC_URL="/static/",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
)
django.setup()


def prepare():
    """Make the tables, and the user that logs in."""
    from django.contrib.auth.models import User

    call_command("migrate", verbosity=0)
    User.objects.create_superuser("admin", "admin@example.org", "secret")


def index(_):
    return HttpResponse("<p>hello</p>")


@csrf_exempt
def see(request):
    if hasattr(request, "scope"):
        return HttpResponse(seen.scope(request.scope), content_type="text/plain")
    return HttpResponse(seen.environ(request.META), content_type="text/plain")


def path(_, rest):
    return HttpResponse(rest, content_type="text/plain; charset=utf-8")


@csrf_exempt
def form(request):
    return JsonResponse(request.POST.dict())


@csrf_exempt
def upload(request):
    file = request.FILES["file"]
    return JsonResponse({"name": file.name, "type": file.content_type, "size": file.size})


@csrf_exempt
def as_json(request):
    return HttpResponse(request.body, content_type="application/json")


def other(_):
    return HttpResponseRedirect("/")


def cookies(_):
    response = HttpResponse("set")
    response.set_cookie("first", "1", httponly=True)
    response.set_cookie("second", "two words", max_age=60)
    return response


def parts():
    for number in range(3):
        yield f"part {number}\n"
        time.sleep(0.01)


def stream(_):
    return StreamingHttpResponse(parts(), content_type="text/plain")


def empty(_):
    return HttpResponse(status=204)


def error(_):
    raise ValueError("the view fails")


def file(_):
    return FileResponse(open(__file__, "rb"), content_type="text/x-python")


def urls():
    from django.contrib import admin

    directory = os.path.join(os.path.dirname(admin.__file__), "static")
    return [
        route("", index),
        route("seen", see),
        route("path/<path:rest>", path),
        route("form", form),
        route("upload", upload),
        route("json", as_json),
        route("redirect", other),
        route("cookies", cookies),
        route("stream", stream),
        route("empty", empty),
        route("error", error),
        route("file", file),
        re_path("^static/(?P<path>.*)$", serve, {"document_root": directory}),
        route("admin/", admin.site.urls),
    ]


urlpatterns = urls()
app = get_wsgi_application()
asgi = get_asgi_application()
