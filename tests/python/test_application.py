"""Finding, loading and recognising the application; what each mistake is answered with; logs."""

import json
import os
import sys
import unittest

from front import Front, LoadFailed

WSGI = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"NAME"]
"""
ASGI = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"NAME"})
"""


def wsgi(name="app", body="wsgi"):
    return WSGI.replace("def app", f"def {name}").replace("NAME", body)


def asgi(name="app", body="asgi"):
    return ASGI.replace("def app", f"def {name}").replace("NAME", body)


class Case(unittest.TestCase):
    def load(self, app, files=None, **more):
        f = Front(app, files, **more)
        self.addCleanup(f.close)
        return f

    def answers(self, expected, app, files, **more):
        f = self.load(app, files, **more)
        self.assertEqual(f.get().body.decode(), expected)
        return f

    def fails(self, app, files=None, code=4, **more):
        with self.assertRaises(LoadFailed) as caught:
            self.load(app, files, **more)
        failed = caught.exception
        self.assertEqual((failed.report, failed.code), (["failed", str(code)], code), failed)
        self.assertTrue(failed.line.startswith("coring: "), failed.line)
        self.assertNotIn("coring:_coring", failed.stderr)
        self.assertNotIn("importlib", failed.stderr)
        return failed

    def fails_in_one_line(self, *args, **more):
        failed = self.fails(*args, **more)
        self.assertEqual(failed.stderr.count("\n"), 1, failed.stderr)
        return failed.line


class Finding(Case):
    def test_module_and_attribute(self):
        self.answers("wsgi", "main:app", {"main.py": wsgi()})
        self.answers(
            "wsgi",
            "pkg.sub:web.app",
            {
                "pkg/__init__.py": "",
                "pkg/sub.py": "import types\nfrom pkg import inner as web\n",
                "pkg/inner.py": wsgi(),
            },
        )

    def test_module_alone(self):
        for name in ("app", "application", "api"):
            self.answers("wsgi", "main", {"main.py": wsgi(name)})
        for name in ("create_app", "make_app"):
            self.answers(
                "wsgi", "main", {"main.py": wsgi("inner") + f"\ndef {name}(): return inner\n"}
            )

    def test_objects_of_an_application_win_over_factories(self):
        self.answers("wsgi", "main", {"main.py": wsgi() + "\ndef create_app(): raise SystemExit\n"})

    def test_file(self):
        for app in ("hello.py", "./hello.py", "sub/hello.py", "hello.py:app"):
            files = {app.replace("./", "").split(":")[0]: wsgi()}
            self.answers("wsgi", app, files)

    def test_file_in_a_package(self):
        self.answers(
            "wsgi",
            "src/shop/web.py",
            {
                "src/shop/__init__.py": "",
                "src/shop/web.py": "from .views import app\n",
                "src/shop/views.py": wsgi(),
            },
        )

    def test_file_with_a_name_that_no_module_has(self):
        self.answers("wsgi", "my-app.py", {"my-app.py": wsgi()})
        self.answers("wsgi", "my.app.py", {"my.app.py": wsgi()})

    def test_absolute_file(self):
        f = self.load("main:app", {"main.py": wsgi(), "deep/other.py": wsgi(body="other")})
        self.answers("other", str(f.directory / "deep" / "other.py"), {})

    def test_factory(self):
        source = (
            wsgi("inner") + "\ndef make(name='none', n=0):\n    assert n == 3\n    return inner\n"
        )
        self.answers("wsgi", "main:make('test', n=3)", {"main.py": source})
        source = wsgi("inner") + "\ndef make(): return inner\n"
        self.answers("wsgi", "main:make()", {"main.py": source})
        self.answers("wsgi", "main:make", {"main.py": source}, factory=True)
        self.answers("wsgi", "main", {"main.py": source.replace("make", "app")}, factory=True)

    def test_same_object_under_two_names(self):
        self.answers("wsgi", "main.py", {"main.py": wsgi() + "\napplication = app\n"})

    def test_modules_named_like_the_application_are_none(self):
        self.answers(
            "wsgi", "main.py", {"main.py": wsgi("application") + "\nimport api\n", "api.py": ""}
        )

    def test_path_and_arguments(self):
        source = (
            wsgi()
            + "\nimport sys, os, json\nINFO = [sys.argv, sys.path[:3], os.getcwd(), __name__]\n"
        )
        source += "print(json.dumps(INFO))\n"
        f = self.load("main:app", {"main.py": source, "a/x": "", "b/x": ""}, pythonpath=["a", "b"])
        argv, path, cwd, name = json.loads(f.stdout())
        here = os.path.realpath(f.directory)
        self.assertEqual(argv, ["main:app"])
        self.assertEqual([os.path.realpath(p) for p in path], [here, here + "/a", here + "/b"])
        self.assertEqual((os.path.realpath(cwd), name), (here, "main"))

    def test_chdir_and_app_dir(self):
        files = {"sub/main.py": wsgi() + "\nimport os; print(os.getcwd())\n"}
        f = self.answers("wsgi", "main:app", files, chdir="sub")
        self.assertTrue(f.stdout().endswith("/sub\n"))
        f = self.answers("wsgi", "main:app", files, app_dir="sub")
        self.assertFalse(f.stdout().endswith("/sub\n"))

    def test_files_named_like_the_standard_library_harm_only_themselves(self):
        """coring's own imports do not look into the current directory."""
        names = ["marshal", "socket", "logging", "select", "struct", "mmap", "signal", "ast"]
        files = {f"{name}.py": "raise RuntimeError('shadowed')" for name in names}
        self.answers("wsgi", "main:app", {"main.py": wsgi(), **files})

    def test_nothing_of_corings_can_be_imported_from_files(self):
        source = (
            wsgi()
            + "\nimport _coring, sys\n"
            + "print(_coring.__file__, [p for p in sys.path if p.startswith('coring:')])\n"
        )
        f = self.answers("wsgi", "main:app", {"main.py": source})
        self.assertEqual(f.stdout(), "coring:_coring.py []\n")

    def test_multiprocessing_of_a_function_of_the_application(self):
        source = """
            import multiprocessing
            def double(x):
                return 2 * x
            def app(environ, start_response):
                start_response("200 OK", [("Content-Type", "text/plain")])
                with multiprocessing.get_context(environ["QUERY_STRING"]).Pool(1) as pool:
                    return [str(pool.apply(double, (21,))).encode()]
        """
        f = self.load("web.py", {"web.py": source})
        for method in ("spawn", "forkserver", "fork"):
            self.assertEqual(f.get(query=method).body, b"42")


class Recognising(Case):
    def interface(self, source, **more):
        f = self.load("main:app", {"main.py": source}, **more)
        return f.worker.loaded[:2]

    def test_functions(self):
        self.assertEqual(self.interface(wsgi()), ["wsgi", "gthread"])
        self.assertEqual(self.interface(asgi()), ["asgi3", "asgi"])

    def test_objects_with_call(self):
        self.assertEqual(
            self.interface("""
            class App:
                async def __call__(self, scope, receive, send): pass
            app = App()
        """),
            ["asgi3", "asgi"],
        )
        self.assertEqual(
            self.interface("""
            class App:
                def __call__(self, environ, start_response): pass
            app = App()
        """),
            ["wsgi", "gthread"],
        )

    def test_call_of_an_instance(self):
        """As instrumentation does it."""
        self.assertEqual(
            self.interface("""
            class App:
                def __init__(self): self.__call__ = self.run
                async def run(self, scope, receive, send): pass
                def __call__(self, *args): return self.run(*args)
            app = App()
        """),
            ["asgi3", "asgi"],
        )

    def test_classes(self):
        self.assertEqual(
            self.interface("""
            class app:
                def __init__(self, environ, start_response): pass
                def __iter__(self): yield b""
        """),
            ["wsgi", "gthread"],
        )
        self.assertEqual(
            self.interface("""
            class app:
                def __init__(self, scope): pass
                async def __call__(self, receive, send): pass
        """),
            ["asgi2", "asgi"],
        )
        self.assertEqual(
            self.interface("""
            class app:
                def __init__(self, scope, receive, send): pass
                def __await__(self): yield
        """),
            ["asgi3", "asgi"],
        )

    def test_partials(self):
        self.assertEqual(
            self.interface("""
            import functools
            async def inner(config, scope, receive, send): pass
            app = functools.partial(inner, 1)
        """),
            ["asgi3", "asgi"],
        )
        self.assertEqual(
            self.interface("""
            import functools
            def inner(config, environ, start_response): pass
            app = functools.partial(inner, 1)
        """),
            ["wsgi", "gthread"],
        )

    def test_wrappers(self):
        self.assertEqual(
            self.interface("""
            import functools
            async def inner(scope, receive, send): pass
            @functools.wraps(inner)
            def app(*args): return inner(*args)
        """),
            ["asgi3", "asgi"],
        )
        self.assertEqual(
            self.interface("""
            async def inner(scope, receive, send): pass
            def app(scope, receive, send): return inner(scope, receive, send)
        """),
            ["asgi3", "asgi"],
        )
        self.assertEqual(
            self.interface("""
            def app(scope):
                async def instance(receive, send): pass
                return instance
        """),
            ["asgi2", "asgi"],
        )

    def test_wrappers_that_change_the_arguments(self):
        """As the decorators of Werkzeug do."""
        self.assertEqual(
            self.interface("""
            import functools
            def application(f):
                @functools.wraps(f)
                def wrapper(*args): return f(args[-2])
                return wrapper
            @application
            def app(request): pass
        """),
            ["wsgi", "gthread"],
        )
        self.assertEqual(
            self.interface("""
            import functools
            async def inner(scope, receive, send): pass
            @functools.wraps(inner)
            def app(environ, start_response): pass
        """),
            ["wsgi", "gthread"],
        )

    def test_any_arguments_are_wsgi(self):
        self.assertEqual(self.interface("def app(*args): pass"), ["wsgi", "gthread"])
        self.assertEqual(
            self.interface("""
            class App:
                def __call__(self, environ, start_response, extra=None): pass
            app = App()
        """),
            ["wsgi", "gthread"],
        )

    def test_interface_is_obeyed(self):
        source = "def app(*args):\n    import inner\n    return inner.app(*args)\n"
        f = self.load("main:app", {"main.py": source, "inner.py": asgi()}, interface="asgi3")
        self.assertEqual(f.get().body, b"asgi")
        f = self.load("main:app", {"main.py": source, "inner.py": asgi()}, interface="asgi")
        self.assertEqual(f.get().body, b"asgi")
        f = self.load("main:app", {"main.py": source, "inner.py": wsgi()}, interface="wsgi")
        self.assertEqual(f.get().body, b"wsgi")

    def test_classes_of_workers(self):
        self.assertEqual(self.interface(wsgi(), worker_class="sync"), ["wsgi", "sync"])
        f = self.load("main:app", {"main.py": wsgi()}, worker_class="gthread", threads=3)
        self.assertEqual(f.worker.loaded[2], "3")
        line = self.fails_in_one_line("main:app", {"main.py": asgi()}, worker_class="sync")
        self.assertIn("`main:app` is an ASGI application", line)
        line = self.fails_in_one_line("main:app", {"main.py": wsgi()}, worker_class="asgi")
        self.assertIn("`main:app` is a WSGI application", line)

    def test_event_loop_while_importing(self):
        source = "import asyncio\nloop = asyncio.get_event_loop()\n" + asgi().replace(
            "assert", "assert loop is asyncio.get_running_loop(); assert"
        )
        for more in ({"worker_class": "asgi"}, {"interface": "asgi3"}, {}):
            with self.subTest(more):
                f = self.load("main:app", {"main.py": source}, **more)
                self.assertEqual(f.get().body, b"asgi", f.stderr())


class Mistakes(Case):
    """Each gets one clear line, behind the traceback where there is one."""

    def test_wrong_module(self):
        line = self.fails_in_one_line("mian:app", {"main.py": wsgi()})
        self.assertIn("there is no module `mian` in ", line)
        self.assertIn("that directory has main.py", line)
        line = self.fails_in_one_line("pkg.mian:app", {"pkg/__init__.py": ""})
        self.assertIn("there is no module `pkg.mian`", line)
        line = self.fails_in_one_line("nothing.deep:app", {})
        self.assertIn("there is no module `nothing.deep`", line)

    def test_no_such_attribute(self):
        line = self.fails_in_one_line("main:app", {"main.py": wsgi("web")})
        self.assertIn(
            "main.py has no `app`; it has web; name the application, as in main:NAME", line
        )

    def test_no_application_in_a_module(self):
        line = self.fails_in_one_line("main", {"main.py": wsgi("web")})
        self.assertIn("none of app, application, api, create_app() and make_app()", line)
        self.assertIn("it has web", line)
        self.fails_in_one_line("main.py", {"main.py": ""})

    def test_two_candidates(self):
        for app in ("main.py", "main"):
            line = self.fails_in_one_line(app, {"main.py": wsgi() + wsgi("api")})
            self.assertIn(f"`{app}` has `app` and `api`; say which one", line)
            self.assertIn(f"as in {app}:app", line)

    def test_import_error_inside(self):
        failed = self.fails("main:app", {"main.py": "from os import no_such_name\n"})
        self.assertIn('main.py", line 1', failed.stderr)
        self.assertIn("cannot import name 'no_such_name'", failed.line)

    def test_exception_inside(self):
        failed = self.fails("main:app", {"main.py": "import inner\n", "inner.py": "x = 1 / 0\n"})
        self.assertIn("Traceback (most recent call last):", failed.stderr)
        self.assertIn('inner.py", line 1', failed.stderr)
        self.assertIn("x = 1 / 0", failed.stderr)
        self.assertIn("`main:app` cannot be imported: ZeroDivisionError", failed.line)

    def test_syntax_error(self):
        failed = self.fails("main:app", {"main.py": "def app(:\n    pass\n"})
        self.assertIn("main.py, line 1", failed.line)
        self.assertIn("def app(:", failed.stderr)

    def test_missing_dependency(self):
        failed = self.fails("main:app", {"main.py": "import flaskk.views\n"})
        self.assertIn("`main:app` needs the module `flaskk`", failed.line)
        self.assertIn("-m pip install flaskk", failed.line)
        self.assertIn('main.py", line 1', failed.stderr)

    def test_not_callable(self):
        line = self.fails_in_one_line("main:app", {"main.py": "app = 'text'\n"})
        self.assertIn("`main:app` is a str, which cannot be called", line)

    def test_unreadable_file(self):
        line = self.fails_in_one_line("missing.py", {})
        self.assertIn("there is no file ", line)
        line = self.fails_in_one_line("dir.py", {"dir.py/x": ""})
        self.assertIn("is not a file", line)

    @unittest.skipIf(os.geteuid() == 0, "root can read every file")
    def test_file_without_permission(self):
        f = self.load("main:app", {"main.py": wsgi(), "secret.py": wsgi()})
        os.chmod(f.directory / "secret.py", 0)
        line = self.fails_in_one_line(str(f.directory / "secret.py"), {})
        self.assertIn("cannot be read by user id", line)

    def test_factory_that_raises(self):
        source = "def create_app():\n    raise KeyError('SECRET')\n"
        for app in ("main:create_app()", "main"):
            failed = self.fails(app, {"main.py": source})
            self.assertIn(
                "`create_app()` has not made an application: KeyError: 'SECRET'", failed.line
            )
            self.assertIn("raise KeyError('SECRET')", failed.stderr)

    def test_factory_that_makes_none(self):
        line = self.fails_in_one_line("main:create_app()", {"main.py": "def create_app(): pass\n"})
        self.assertIn("`create_app()` has returned a NoneType", line)
        line = self.fails_in_one_line("main:x()", {"main.py": "x = 1\n"})
        self.assertIn("`x` is an int, not a function", line)

    def test_factory_that_needs_arguments(self):
        failed = self.fails("main:make()", {"main.py": "def make(config): pass\n"})
        self.assertIn("missing 1 required positional argument", failed.line)

    def test_factory_that_is_not_called(self):
        for parameters in ["", "config=None", "*, debug=False", "a=1, *, b=2"]:
            files = {"main.py": f"def make({parameters}): pass\n"}
            line = self.fails_in_one_line("main:make", files)
            self.assertIn("`main:make` is not called as an application is", line)
            self.assertIn("write main:make()", line)

    def test_nonsense_after_the_colon(self):
        for text in ("main:app[0]", "main:app(", "main:f(open('x'))", "main:1", "main:a b"):
            line = self.fails_in_one_line(text, {"main.py": wsgi()})
            self.assertIn("cannot be understood after the colon", line)
        self.assertIn("names no module", self.fails_in_one_line(":app", {}))

    def test_exit_while_importing(self):
        failed = self.fails("main:app", {"main.py": "import sys\nsys.exit(2)\n"})
        self.assertIn("ended the process while it was imported", failed.line)

    def test_name_of_another_module(self):
        line = self.fails_in_one_line("logging.py", {"logging.py": wsgi()})
        self.assertIn("Python has another module `logging`", line)
        self.assertIn("rename the file", line)

    def test_directories(self):
        line = self.fails_in_one_line("main:app", {}, chdir="nowhere")
        self.assertIn("cannot change to nowhere: No such file or directory", line)
        line = self.fails_in_one_line("main:app", {}, app_dir="nowhere")
        self.assertIn("nowhere is not a directory; correct --app-dir", line)

    def test_uvloop_that_is_not_installed(self):
        files = {"main.py": asgi(), "uvloop.py": "raise ImportError('no uvloop here')"}
        for more in ({}, {"worker_class": "asgi"}):
            failed = self.fails("main:app", files, loop="uvloop", env={"PYTHONPATH": "."}, **more)
            self.assertIn("--loop uvloop needs the module `uvloop`", failed.line)
            self.assertIn("pip install uvloop", failed.line)

    def test_a_broken_uvloop_is_not_used(self):
        files = {"main.py": asgi(), "uvloop.py": "raise ImportError('no uvloop here')"}
        f = self.load("main:app", files, env={"PYTHONPATH": "."})
        self.assertIn("asyncio", f.worker.loaded[3])

    def test_threads_of_the_application_do_not_keep_a_failed_worker(self):
        source = """
            import threading, time
            threading.Thread(target=time.sleep, args=(60,)).start()
            raise RuntimeError("too late")
        """
        self.fails("main:app", {"main.py": source})


class Logs(Case):
    def test_print_appears_at_once(self):
        source = wsgi() + "\nprint('imported')\n"
        source = source.replace("    return", "    print('called')\n    return")
        f = self.load("main:app", {"main.py": source})
        self.assertEqual(f.stdout(), "imported\n")
        f.get()
        self.assertEqual(f.stdout(), "imported\ncalled\n")

    def test_well_known_loggers(self):
        source = (
            wsgi()
            + """
import logging
for name in ("gunicorn.error", "gunicorn.access", "uvicorn", "uvicorn.access"):
    logger = logging.getLogger(name)
    assert logger.handlers and logger.handlers[0].formatter, name
    assert logger.level == logging.DEBUG or "access" in name, name
assert logging.getLogger("uvicorn.error").getEffectiveLevel() == logging.DEBUG
own = logging.getLogger("own")
own.handlers = logging.getLogger("gunicorn.error").handlers
own.setLevel(logging.getLogger("gunicorn.error").level)
own.debug("by recipe")
logging.getLogger("uvicorn.error").warning("by uvicorn")
"""
        )
        f = self.load("main:app", {"main.py": source}, log_level="debug")
        self.assertRegex(f.stderr(), r"^\[.*\] \[\d+\] \[DEBUG\] by recipe\n")
        self.assertEqual(f.stderr().count("by uvicorn"), 1)

    def test_level(self):
        source = wsgi() + "\nimport logging\nlogging.getLogger('gunicorn.error').info('hidden')\n"
        f = self.load("main:app", {"main.py": source}, log_level="warning")
        self.assertEqual(f.stderr(), "")

    def test_errors_are_seen_whatever_the_application_does_to_logging(self):
        source = """
            import logging.config
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})
            def app(environ, start_response):
                raise RuntimeError("still seen")
        """
        f = self.load("main:app", {"main.py": source})
        f.get()
        self.assertIn("RuntimeError: still seen", f.stderr())
        f = self.load(
            "main:app",
            {"main.py": "import sys\nsys.stderr = None\n" + source.replace("\n            ", "\n")},
        )
        f.get()
        self.assertIn("RuntimeError: still seen", f.stderr())

    def test_filters_of_access_loggers_are_said_to_have_no_effect(self):
        source = (
            wsgi()
            + """
import logging
logging.getLogger("gunicorn.access").addFilter(lambda record: "/health" not in record.getMessage())
logging.getLogger("uvicorn.access").addHandler(logging.NullHandler())
"""
        )
        for text in (source, source.replace(wsgi(), asgi())):
            f = self.load("main:app", {"main.py": text}, lifespan="off")
            self.assertEqual(f.stderr().count("--access-log-skip"), 1)

    def test_loggers_of_access_without_filters_are_silent(self):
        self.assertEqual(self.load("main:app", {"main.py": wsgi()}).stderr(), "")

    def test_no_standard_streams(self):
        source = "import sys\nsys.stdout.close(); sys.stderr.close()\n" + wsgi()
        self.answers("wsgi", "main:app", {"main.py": source})


class Bootstrap(Case):
    def test_the_bundle_is_closed(self):
        source = (
            wsgi()
            + """
import os
found = []
for fd in os.listdir("/proc/self/fd"):
    try:
        found.append(os.readlink(f"/proc/self/fd/{fd}"))
    except OSError:
        pass
print(sum("memfd" in name for name in found))
"""
        )
        f = self.load("main:app", {"main.py": source})
        # The page of marks is mapped; its descriptor is mmap's own.
        self.assertLessEqual(int(f.stdout()), 1)

    def test_tracebacks_show_lines_of_the_package(self):
        source = wsgi().replace("200 OK", "2 OK")
        f = self.load("main:app", {"main.py": source})
        self.assertEqual(f.get().status, 500)
        self.assertIn('File "coring:_coring/wsgi.py"', f.stderr())
        self.assertIn("raise ValueError(", f.stderr())

    def test_flags_of_the_interpreter(self):
        self.answers("wsgi", "main:app", {"main.py": wsgi()}, env={"PYTHONSAFEPATH": "1"})
        self.answers("wsgi", "main:app", {"main.py": wsgi()}, env={"PYTHONDEVMODE": "1"})
        self.answers(
            "asgi",
            "main:app",
            {"main.py": asgi()},
            env={"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"},
            loop="asyncio",
        )
        self.answers("wsgi", "main:app", {"main.py": wsgi()}, env={"PYTHONOPTIMIZE": "2"})
        self.answers(
            "wsgi", "main:app", {"main.py": wsgi()}, env={"LC_ALL": "C", "PYTHONUTF8": "0"}
        )

    # A forked child of 3.8 crashes in this mode: it frees its locks by another allocator.
    @unittest.skipIf(sys.version_info < (3, 9), "not in Python 3.8")
    def test_no_warning_in_development_mode(self):
        for source in (wsgi(), asgi()):
            f = self.load(
                "main:app",
                {"main.py": source},
                env={"PYTHONDEVMODE": "1"},
                loop="asyncio",
                lifespan="off",
            )
            f.get()
            f.worker.quit()
            self.assertEqual(f.worker.wait(), 0)
            self.assertEqual(f.stderr(), "")

    def test_sitecustomize_runs(self):
        files = {"main.py": wsgi(), "sitecustomize.py": "print('customized')"}
        f = self.load("main:app", files, env={"PYTHONPATH": "."})
        self.assertEqual(f.stdout(), "customized\n")

    def test_exit_handlers_run(self):
        source = wsgi() + "\nimport atexit; atexit.register(print, 'at exit')\n"
        f = self.load("main:app", {"main.py": source})
        f.worker.quit()
        self.assertEqual(f.worker.wait(), 0)
        self.assertEqual(f.stdout(), "at exit\n")


class Preloading(Case):
    """Loading in the process that workers are forked from."""

    def answers_preloaded(self, more):
        return self.answers("wsgi", "main:app", {"main.py": wsgi() + more}, preload=True)

    def test_threads_and_exit_handlers_do_not_keep_the_zygote(self):
        f = self.answers_preloaded(
            """
import atexit, os, threading
home = os.getpid()
atexit.register(lambda: os.getpid() == home and print("at exit"))
threading.Thread(target=threading.Event().wait, name="endless").start()
"""
        )
        self.assertIn("(endless)", f.stderr())
        self.assertEqual(f.worker.zygote.wait(), 0)
        self.assertEqual(f.stdout(), "")

    def test_lazy_objects_are_left_alone(self):
        f = self.answers_preloaded(
            """
import asyncio, weakref

class Lazy:
    @property
    def __class__(self):
        print("evaluated")
        return Lazy

lazy = Lazy()
dead = weakref.proxy(Lazy())
"""
        )
        self.assertEqual(f.stdout(), "")


if __name__ == "__main__":
    unittest.main()
