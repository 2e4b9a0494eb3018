"""A plugin of pytest by which gunicorn's tests of its settings test coring.

The applications of these tests, which take a command line, become `coring run --print-config`. So
do their objects of settings: each value that is set stands in a configuration file. What coring
prints as `none` is not set, and then the default is gunicorn's (`tests/settings` compares these).
"""

import os
import subprocess
import sys
import tempfile

APPLICATION = "def app(environ, start_response): pass\napp1 = app\n"
# Tests by a part of their names, and why they are left out.
LEFT_OUT = {
    **dict.fromkeys(
        ("test_defaults", "test_app_config", "test_property_access", "test_repr", "test_str]"),
        "about gunicorn's objects, not about values",
    ),
    **dict.fromkeys(
        ("test_worker_class", "test_callable_validation", "test_post_request", "test_nworkers"),
        "about functions, which are not printed; tests/integration/python_hooks.rs calls them",
    ),
    "test_reload_e": "coring notices changed files by itself: the setting has no effect",
    "test_statsd": "there is no statsd yet",
    "test_always_use_configured_logger": "coring writes the log: there are no classes of loggers",
    "TestGetDefaultControlSocket": "there is no control socket",
}
# The names of settings that have others in coring.
NAMES = {"preload_app": "preload", "wsgi_app": "app"}
# Settings whose defaults are those of others.
DEFAULTS = {"proc_name": "default_proc_name"}


class RefusedError(ValueError, TypeError):
    """coring has refused a value."""


def printed(*arguments):
    """The settings that coring prints for a command line, or its error, and its status."""
    command = [os.environ["FOREIGN_CORING"], "run", "--print-config", "--python", sys.executable]
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (line.partition(" = ") for line in done.stdout.splitlines())
    values = {name: value.rpartition(" # ")[0] for name, _, value in lines}
    # With 78 the values are valid, but a file or directory that they name is missing.
    status = 0 if values and done.returncode == 78 else done.returncode
    return values, done.stderr, status


def prepare():
    """Put coring in the place of gunicorn. Only the tests need the modules for that."""
    import pytest
    from gunicorn import config
    from gunicorn.app import base, wsgiapp

    settings = {setting.name: setting for setting in config.KNOWN_SETTINGS}

    class Values:
        """Settings as coring prints them, in the types of gunicorn."""

        def __init__(self, values):
            self._values = values

        def __getattr__(self, name):
            if name not in settings:
                raise AttributeError(name)
            text = self._values.get(NAMES.get(name, name), "none")
            if text == "none":
                name = DEFAULTS.get(name, name)
                return settings[name].validator(settings[name].default)
            if isinstance(settings[name].default, bool):
                return text == "true"
            if name == "umask" or isinstance(settings[name].default, int):
                return config.auto_int(None, text)
            is_list = isinstance(settings[name].validator(settings[name].default), list)
            return [item for item in text.split(",") if item] if is_list else text

    class Application:
        """An application of gunicorn: its settings come from the command line."""

        def __init__(self, usage=None, prog=None):
            arguments = sys.argv[1:]
            needs_name = isinstance(self, wsgiapp.WSGIApplication)
            if not needs_name and not any(word.endswith(":app") for word in arguments):
                arguments.append("app:app")
            values, error, status = printed(*arguments)
            if status:
                sys.stderr.write(error)
                sys.exit(status)
            self.cfg = Values(values)
            self.app_uri = values["app"]

    class WSGIApplication(Application):
        """An application that is named on the command line or in a file."""

    class Config(Values):
        """Settings that are set one by one."""

        def __init__(self):
            super().__init__({})
            self._set = {}

        def set(self, name, value):
            value = "object()" if isinstance(value, Config) else repr(value)
            with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
                for item in {**self._set, name: value}.items():
                    file.write("{} = {}\n".format(*item))
                file.flush()
                values, error, status = printed("-c", file.name, "app:app")
            if status:
                raise RefusedError(error.strip())
            self._set[name] = value
            self._values = values

    base.Application = Application
    wsgiapp.WSGIApplication = WSGIApplication
    config.Config = Config

    class Plugin:
        def pytest_collection_modifyitems(self, items):
            for item in items:
                name = f"{item.nodeid}]"
                reasons = [reason for part, reason in LEFT_OUT.items() if part in name]
                for reason in reasons[:1]:
                    item.add_marker(pytest.mark.skip(reason=reason))

    for name in ("app", "app1", "myapp"):
        with open(f"{name}.py", "w") as file:
            file.write(APPLICATION)
    return Plugin()


def pytest_configure(config):
    config.pluginmanager.register(prepare(), "through-coring")
