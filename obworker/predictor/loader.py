"""A predictor.py becomes the class to serve; constructs nothing and changes no directory."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import re
import sys
import types
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from obworker.errors import LoadError, ObworkerError, did_you_mean
from obworker.predictor.faults import kind_of
from obworker.predictor.injection import has_method
from obworker.predictor.model_files import SUFFIX, listed
from obworker.predictor.traces import locate, summarise, user_traceback

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASS_NAME = "Predictor"
SHIM_NAME = "openbayes_serving"

_RUN = re.compile(rb"^[^#\n]*\brun\(\s*(?:predictor_cls\s*=\s*)?(\w+)\s*,?\s*\)", re.MULTILINE)

# Packages whose modules have another name; only those that are common in models.
PACKAGES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}

# The classes given to run() during the import of a predictor.py; None at other times.
_announced: ContextVar[list[type] | None] = ContextVar("announced", default=None)


def announce(predictor: type) -> bool:
    """Note `predictor` as the class to serve during an import; return False at other times."""
    announced = _announced.get()
    if announced is None:
        return False
    _check_class(predictor)
    announced.append(predictor)
    return True


def _check_class(predictor: object) -> None:
    if not isinstance(predictor, type):
        raise LoadError(f"run() takes the class, not a {type(predictor).__name__}")


class Source(NamedTuple):
    """The absolute path of a file, and the name that a class has in it."""

    file: Path
    name: str


def source_of(predictor: type) -> Source:
    """Return where `predictor` can be loaded from: the script, or the file beside it that has it.

    A class from anywhere else, such as a package, is loaded from the script that has imported it,
    because the script's directory is the model.
    """
    _check_class(predictor)
    file, script = _file_of(predictor.__module__), _file_of("__main__")
    name = _name_in_script(predictor)
    if script and name and (not file or file.parent.resolve() != script.parent.resolve()):
        return Source(script, name)
    if file is None:
        raise LoadError(f"{predictor.__name__} is not defined in a file")
    return Source(file, predictor.__qualname__)


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).absolute() if file else None


def _name_in_script(predictor: type) -> str | None:
    names = list(vars(sys.modules["__main__"]).items())
    return next((name for name, value in names if value is predictor), None)


def has_script_moved() -> bool:
    """Return whether the script has changed directory: then its relative path leads nowhere."""
    script = sys.argv[0]
    return script.endswith(SUFFIX) and not os.path.lexists(script)


def load_class(file: Path, class_name: str | None) -> type:
    """Import `file`, put its directory first in sys.path, and choose the class to serve."""
    directory = file.parent
    sys.dont_write_bytecode = True  # the directory belongs to the user, and may be read-only
    if sys.path[:1] != [str(directory)]:
        sys.path.insert(0, str(directory))
    _bind_shim()
    with _announcements() as announced:
        module = _import(file)
    return _choose(module, file, class_name, announced)


def choose_defined(module: types.ModuleType) -> list[type]:
    """Return the classes defined in `module` itself that have predict or predict_batch.

    Abstract ones only if there is no other.
    """
    found = [value for value in _own(module) if has_method(value, "predict", "predict_batch")]
    return [value for value in found if not _is_abstract(value)] or found


def _is_abstract(predictor: type) -> bool:
    is_protocol = vars(predictor).get("_is_protocol", False)  # typing.is_protocol: Python 3.13
    return inspect.isabstract(predictor) or is_protocol


def _own(module: types.ModuleType) -> list[type]:
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    return [*dict.fromkeys(value for value in classes if value.__module__ == module.__name__)]


def _bind_shim() -> None:
    # An installed openbayes-serving, being a package, would be imported instead of our module.
    from obworker import emit_event, run  # not at the top: the root package imports this one

    shim = types.ModuleType(SHIM_NAME, "What obworker gives a predictor.py.")
    vars(shim).update(run=run, emit_event=emit_event)
    sys.modules[SHIM_NAME] = shim


@contextlib.contextmanager
def _announcements() -> Iterator[list[type]]:
    announced: list[type] = []
    token = _announced.set(announced)
    try:
        yield announced
    finally:
        _announced.reset(token)


def _import(file: Path) -> types.ModuleType:
    name = _module_name(file)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # because the path ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _stand_in_for_main(module)
    try:
        spec.loader.exec_module(module)
    except ObworkerError:
        sys.modules.pop(name, None)
        raise
    except BaseException as error:  # whatever it is, it is the user's code that raised it
        sys.modules.pop(name, None)
        raise _explain(error, file) from error
    return module


def _stand_in_for_main(module: types.ModuleType) -> None:
    """Make what `module` defines available in ``__main__``, where pickles of a script expect it.

    But not names such as __file__ and __spec__: multiprocessing would run the file in its children.
    """

    def find(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(module, name)

    vars(sys.modules["__main__"])["__getattr__"] = find  # PEP 562


def _module_name(file: Path) -> str:
    name = re.sub(r"\W", "_", file.stem)
    # The guard must not run. The module must not replace one of the standard library, nor a package
    # of the same name beside it, which an import would mean.
    is_package = (file.parent / name / "__init__.py").is_file()
    if name == "__main__" or name in sys.stdlib_module_names or is_package:
        return f"predictor_{name}"
    return name


def _explain(error: BaseException, file: Path) -> ObworkerError:
    found = locate(error, file.parent)
    place = found or file.name
    if isinstance(error, SystemExit):
        return LoadError(f"{place}: called sys.exit({error.code!r}) while being imported")
    # No traceback is needed if a module is missing, or the file is no Python. (For a NUL in it,
    # Python before 3.12 raises ValueError, from no line of the file.)
    says_it_all = found is None or isinstance(error, SyntaxError | ModuleNotFoundError)
    trace = "" if says_it_all else user_traceback(error, file.parent)
    kind = kind_of(error, LoadError)
    return kind(f"{place}: {summarise(error)}", _hint(error), traceback=trace)


def _hint(error: BaseException) -> str | None:
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    top = error.name.partition(".")[0]
    package = PACKAGES.get(top, top)
    return f"pip install {package}, or add {package} to requirements.txt in the model directory"


def _choose(
    module: types.ModuleType, file: Path, class_name: str | None, announced: list[type]
) -> type:
    if class_name is not None:
        return _named(module, file.name, class_name)
    if announced:
        return announced[0]
    default = getattr(module, CLASS_NAME, None)
    defaults = [default] if isinstance(default, type) else []
    if defaults and default in _own(module):  # a library may have one of that name
        return defaults[0]
    candidates = choose_defined(module)
    for classes in (_given_to_run(module, file), candidates, defaults):
        if len(classes) == 1:
            return classes[0]
    names = [candidate.__name__ for candidate in candidates]
    if names:
        hint = "choose with --class NAME, or call one of them Predictor"
        raise LoadError(f"{file.name}: several classes have predict: {', '.join(names)}", hint)
    raise LoadError(f"{file.name}: no class with a predict method; {_seen(module)}")


def _given_to_run(module: types.ModuleType, file: Path) -> list[type]:
    """Return the classes that the source passes to run(), in a guard that was not executed."""
    names = sorted({name.decode() for name in _RUN.findall(file.read_bytes())})
    found = [getattr(module, name, None) for name in names]
    classes = [value for value in found if isinstance(value, type)]
    return [value for value in classes if has_method(value, "predict", "predict_batch")]


def _named(module: types.ModuleType, file_name: str, class_name: str) -> type:
    chosen = getattr(module, class_name, None)
    if isinstance(chosen, type):
        return chosen
    names = [candidate.__name__ for candidate in choose_defined(module)]
    guess = did_you_mean(class_name, names)
    raise LoadError(f"{file_name}: no class {class_name!r}{guess}; there is {listed(names)}")


def _seen(module: types.ModuleType) -> str:
    other = getattr(module, CLASS_NAME, None)
    if other is not None and not isinstance(other, type):  # made from the class by a decorator
        return f"{CLASS_NAME} is a {type(other).__name__}"
    return f"it defines {listed([value.__name__ for value in _own(module)])}"
