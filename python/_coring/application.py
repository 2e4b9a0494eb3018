"""Finds the application, loads it, and tells which interface it has."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from types import ModuleType
from typing import Any, Callable

from _coring import logs

# The names of an application that the user has not named, and of functions that make one.
CANDIDATES = ("app", "application", "api")
FACTORIES = ("create_app", "make_app")


class LoadError(Exception):
    """The application could not be loaded: one line that says why, and what helps."""

    def __init__(self, line: str, error: BaseException | None = None) -> None:
        super().__init__(line)
        self.line = line
        self.error = error

    def __str__(self) -> str:
        trace = logs.format_error(self.error) if self.error is not None else ""
        return f"{trace}coring: {self.line}\n"


class Target:
    """What the user has typed: a module or a file, and what in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        place, _, self.expression = text.partition(":")
        self.is_file = place.endswith(".py")
        self.place = place
        if not self.is_file and (os.sep in place or not all(place.split("."))):
            raise LoadError(
                f"`{text}` names no module; write MODULE:APP or FILE.py, as in main:app or main.py"
            )


def load(config: dict[str, Any]) -> Any:
    """The application that `config` names."""
    if config.get("chdir"):
        try:
            os.chdir(config["chdir"])
        except OSError as error:
            raise LoadError(
                f"cannot change to {config['chdir']}: {error.strerror}; correct --chdir"
            ) from None
    target = Target(config["app"])
    directory = os.path.abspath(config.get("app_dir") or os.getcwd())
    if not os.path.isdir(directory):
        raise LoadError(f"{directory} is not a directory; correct --app-dir")
    path = None
    name = target.place
    if target.is_file:
        path = _file(target, directory)
        directory, name = _package_of(path)
    # Python puts the current directory first for `-c`, unless it was told not to.
    if sys.path and sys.path[0] == "":
        del sys.path[0]
    sys.path[:0] = [directory, *map(os.path.abspath, config.get("pythonpath") or [])]
    sys.argv = [config["app"]]
    if name.partition(".")[0] == "_coring":
        raise LoadError(
            f"`{target.text}` cannot be imported, since `_coring` is a name of coring's own; "
            "rename the module"
        )
    module = _import(target, name, path, directory)
    return _find(target, module, bool(config.get("factory")))


def _file(target: Target, directory: str) -> str:
    path = os.path.join(directory, target.place)
    if not os.path.exists(path):
        files = _files_in(os.path.dirname(path))
        raise LoadError(f"there is no file {path}{files}; correct the name")
    if not os.path.isfile(path):
        raise LoadError(f"{path} is not a file; give a file, or a module as in main:app")
    try:
        with open(path, "rb"):
            return os.path.abspath(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _files_in(directory: str) -> str:
    """The names that the user may have meant, as the end of a sentence."""
    try:
        files = sorted(f for f in os.listdir(directory) if f.endswith(".py"))
    except OSError:
        files = []
    return f"; that directory has {', '.join(files[:8])}" if files else ""


def _unreadable(path: str, error: OSError) -> LoadError:
    return LoadError(
        f"{path} cannot be read by user id {os.geteuid()}: {error.strerror}; "
        "change its permissions or the user"
    )


def _package_of(path: str) -> tuple[str, str]:
    """The directory to import from, and the name of the module in `path`."""
    directory, file = os.path.split(path)
    name = file[: -len(".py")]
    if "." in name:
        # No import statement finds it.
        return directory, ""
    names = [] if name == "__init__" else [name]
    while os.path.isfile(os.path.join(directory, "__init__.py")):
        directory, name = os.path.split(directory)
        names.insert(0, name)
    return directory, ".".join(names)


def _import(target: Target, name: str, path: str | None, directory: str) -> ModuleType:
    try:
        module = _import_file(name, path) if path else importlib.import_module(name)
    except LoadError:
        raise
    except BaseException as error:
        raise _import_failed(target, name, directory, error) from None
    return module


def _import_file(name: str, path: str) -> ModuleType:
    if name:
        module = importlib.import_module(name)
        found = getattr(module, "__file__", None)
        if found and os.path.exists(found) and os.path.samefile(found, path):
            return module
        raise LoadError(
            f"{path} cannot be imported, since Python has another module `{name}` "
            f"({found or 'built in'}); rename the file"
        )
    name = re.sub(r"\W", "_", os.path.basename(path)[: -len(".py")])
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import_failed(target: Target, name: str, directory: str, error: BaseException) -> LoadError:
    trimmed = logs.without_own_frames(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        if trimmed.__traceback__ is None and f"{name}.".startswith(f"{error.name}."):
            return _no_module(name, error, directory)
        missing = error.name.partition(".")[0]
        return LoadError(
            f"`{target.text}` needs the module `{error.name}`, which is not installed for "
            f"{sys.executable}; install the package that has it, as in: "
            f"{sys.executable} -m pip install {missing}",
            error,
        )
    if isinstance(error, PermissionError) and trimmed.__traceback__ is None:
        return _unreadable(error.filename, error)
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}"
        return LoadError(f"`{target.text}` cannot be imported: {error.msg} ({where})", error)
    if isinstance(error, SystemExit):
        return LoadError(
            f"`{target.text}` ended the process while it was imported; "
            'let it start servers only under `if __name__ == "__main__":`',
            error,
        )
    text = f"`{target.text}` cannot be imported: {_one_line(error)}"
    if isinstance(error, RuntimeError) and "no current event loop" in str(error):
        text += "; --interface asgi3 imports it with an event loop in place"
    return LoadError(text, error)


def _no_module(name: str, error: ModuleNotFoundError, directory: str) -> LoadError:
    missing = error.name
    text = f"there is no module `{missing}` in {directory} or elsewhere on Python's path"
    if missing != name:
        text = f"there is no module `{name}`, since {text}"
    if "is not a package" in str(error):
        module, _, rest = name.rpartition(".")
        return LoadError(
            f"there is no module `{name}`, since `{module}` is a file; write {module}:{rest} if "
            f"`{rest}` is in that file"
        )
    files = _files_in(directory)
    return LoadError(f"{text}{files}; correct the name, or give the directory with --app-dir")


def _one_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _find(target: Target, module: ModuleType, is_factory: bool) -> Any:
    expression = target.expression.strip()
    app: Any
    if not expression:
        name = _candidate(target, module)
        app = getattr(module, name)
        if is_factory or name in FACTORIES:
            return _made(target, name, app, (), {})
        _check(app, f"{target.place}:{name}")
        return app
    name, args, kwargs = _parsed(target, expression)
    app = module
    for part in name.split("."):
        try:
            app = getattr(app, part)
        except AttributeError:
            raise _no_attribute(target, module, name) from None
    if is_factory or args is not None:
        app = _made(target, name, app, args or (), kwargs)
    _check(app, target.text)
    return app


def _check(app: Any, text: str) -> None:
    """Whether it can be called as an application is. `text` is its name."""
    if not callable(app):
        raise LoadError(
            f"`{text}` is {_article(app)}, which cannot be called; "
            "an application is a WSGI or ASGI callable"
        )
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return
    for count in (2, 3):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return
    # ASGI 2. A function that can do without its argument makes applications.
    if _needed_arguments(app, True) == 1:
        return
    raise LoadError(
        f"`{text}` is not called as an application is, with two or three arguments; "
        f"if it makes the application, write {text}()"
    )


def _article(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _candidate(target: Target, module: ModuleType) -> str:
    """The name of the application in a module that has only one."""
    found: dict[int, str] = {}
    for name in CANDIDATES:
        value = getattr(module, name, None)
        if callable(value):
            found.setdefault(id(value), name)
    names = list(found.values())
    if len(names) > 1:
        both = " and ".join(f"`{name}`" for name in names)
        raise LoadError(
            f"`{target.place}` has {both}; say which one is the application, "
            f"as in {target.place}:{names[0]}"
        )
    if not names:
        names = [name for name in FACTORIES if callable(getattr(module, name, None))]
    if not names:
        # What cannot be called is explained; a module of that name is another thing.
        names = [
            name for name in CANDIDATES if not isinstance(getattr(module, name, module), ModuleType)
        ]
    if not names:
        raise _no_attribute(target, module, None)
    return names[0]


def _no_attribute(target: Target, module: ModuleType, name: str | None) -> LoadError:
    where = getattr(module, "__file__", None)
    if where is None:
        directory = next(iter(getattr(module, "__path__", [])), "")
        files = _files_in(directory)
        raise LoadError(
            f"{directory} is a directory{files}; name a file in it, as in {target.place}/main.py"
        )
    wanted = f"`{name}`" if name else "none of app, application, api, create_app() and make_app()"
    text = f"{where} has {'no ' if name else ''}{wanted}"
    own = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and callable(value)
        and not isinstance(value, type)
        and getattr(value, "__module__", module.__name__) in (module.__name__, None)
    ]
    others = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and callable(value)
        and key not in own
        and not isinstance(value, type)
        and not inspect.isroutine(value)
    ]
    if others + own:
        text += f"; it has {', '.join((others + own)[:8])}"
    return LoadError(f"{text}; name the application, as in {target.place}:NAME")


def _parsed(target: Target, text: str) -> tuple[str, Any, dict[str, Any]]:
    """`name`, or `name(...)` with literal arguments."""
    if "(" not in text:
        if all(part.isidentifier() for part in text.split(".")):
            return text, None, {}
    else:
        try:
            call = ast.parse(text, mode="eval").body
            if isinstance(call, ast.Call):
                name = ast.unparse(call.func) if sys.version_info >= (3, 9) else _dotted(call.func)
                args = [ast.literal_eval(arg) for arg in call.args]
                kwargs = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
                if all(part.isidentifier() for part in name.split(".")):
                    return name, args, kwargs
        except (SyntaxError, ValueError):
            pass
    raise LoadError(
        f"`{target.text}` cannot be understood after the colon; "
        "write a name, or a call with literal arguments, as in main:create_app('test')"
    )


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _made(target: Target, name: str, factory: Any, args: Any, kwargs: Any) -> Any:
    if not callable(factory):
        raise LoadError(f"`{name}` is {_article(factory)}, not a function that makes applications")
    try:
        app = factory(*args, **kwargs)
    except BaseException as error:
        text = f"`{name}()` has not made an application: {_one_line(error)}"
        if isinstance(error, TypeError) and logs.without_own_frames(error).__traceback__ is None:
            text += f"; give its arguments, as in {target.place}:{name}('test')"
            raise LoadError(text) from None
        raise LoadError(text, error) from None
    if not callable(app):
        raise LoadError(f"`{name}()` has returned {_article(app)}, which is not an application")
    return app


def interface_of(app: Any) -> str:
    """`asgi3`, `asgi2` or `wsgi`."""
    target = app
    while isinstance(target, functools.partial):
        target = target.func
    if inspect.isclass(target):
        if hasattr(target, "__await__"):
            return "asgi3"
        if _is_coroutine(_call_of(target)):
            return "asgi2"
    elif _is_coroutine(target) or _is_coroutine(_call_of(target)):
        return "asgi3"
    # Wrappers hide that they return coroutines, but not how many arguments they need.
    needed = _needed_arguments(app, False)
    if needed is None:
        # The wrapped function says more. With one argument it would not be an application itself.
        return "asgi3" if _needed_arguments(app, True) == 3 else "wsgi"
    return {1: "asgi2", 3: "asgi3"}.get(needed, "wsgi")


def _call_of(target: Any) -> Any:
    # An attribute of an instance counts: instrumentation sets it.
    return getattr(target, "__call__", None)  # noqa: B004


def _is_coroutine(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function)


def _needed_arguments(app: Any, is_followed: bool) -> int | None:
    """How many arguments have no defaults; none if there may be any number of them."""
    try:
        signature = inspect.signature(app, follow_wrapped=is_followed)
    except (TypeError, ValueError):
        return None
    parameters = signature.parameters.values()
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len([p for p in parameters if p.kind in kinds and p.default is p.empty])


def as_asgi3(app: Callable[..., Any]) -> Callable[..., Any]:
    """An application of ASGI 2, which is called twice, as one of ASGI 3."""

    async def called_once(scope: Any, receive: Any, send: Any) -> None:
        instance = app(scope)
        await instance(receive, send)

    return called_once
