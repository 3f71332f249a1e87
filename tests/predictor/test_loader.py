from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from obworker.errors import LoadError
from obworker.predictor import loader
from obworker.predictor.model_files import find_predictor
from obworker.predictor.traces import user_traceback

Model = Callable[..., Path]
PREDICT = "def predict(self): pass"
# Nothing of ours asks a class for predict that is not the one to serve.
REGISTRY = (
    "class Names(type):\n def __getattr__(cls, name): raise KeyError(name)\n"
    "class Registry(metaclass=Names): pass\n"
)
TWO = f"class A:\n {PREDICT}\nclass B:\n {PREDICT}\n"
GUARD = "if __name__ == '__main__':\n import openbayes_serving as s\n"


def load(directory: Path, class_name: str | None = None) -> type:
    return loader.load_class(find_predictor(directory), class_name)


@pytest.mark.parametrize(
    ("source", "class_name", "chosen"),
    [
        (f"class Predictor:\n {PREDICT}\nclass Other:\n {PREDICT}", None, "Predictor"),
        (f"class PythonPredictor:\n {PREDICT}\nclass Data: pass", None, "PythonPredictor"),
        (f"class A:\n {PREDICT}\nclass B:\n {PREDICT}", "B", "B"),
        (f"class Predictor:\n {PREDICT}\nclass B:\n {PREDICT}", "B", "B"),
        (f"from pathlib import Path\nclass A:\n {PREDICT}\nAlias = A", None, "A"),
        (
            f"import openbayes_serving as s\nclass Predictor: pass\nclass B:\n {PREDICT}\ns.run(B)",
            None,
            "B",
        ),
        (
            f"import openbayes_serving as s\nclass A:\n {PREDICT}\nclass B:\n {PREDICT}\ns.run(B)",
            "A",
            "A",
        ),
        (f"class A:\n {PREDICT}\nif __name__ == '__main__':\n raise SystemExit", None, "A"),
        (f"{REGISTRY}class Predictor:\n {PREDICT}", None, "Predictor"),
        (f"{REGISTRY}class A:\n {PREDICT}", "A", "A"),
        (f"{TWO}{GUARD} s.run(B)", None, "B"),
        (f"{TWO}def main():\n from obworker import run\n run( B )\n{GUARD} main()", None, "B"),
        (f"{TWO}{GUARD} s.run(\n  B,\n )", None, "B"),
        (f"{TWO}{GUARD} s.run(predictor_cls=B)", None, "B"),
        (f"{TWO}{GUARD} # s.run(A)\n s.run(B)", None, "B"),
        (f"{TWO}{GUARD} s.run(B)", "A", "A"),
        (f"{TWO}class Predictor:\n {PREDICT}\n{GUARD} s.run(B)", None, "Predictor"),
        (
            f"import subprocess as s\nclass A:\n {PREDICT}\nx = ['ls']\nz = lambda: s.run(x)",
            None,
            "A",
        ),
    ],
)
def test_the_class_is_chosen(
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    class_name: str | None,
    chosen: str,
) -> None:
    import obworker

    monkeypatch.setattr(obworker, "run", loader.announce)  # as the command line's run does
    assert load(model(source), class_name).__name__ == chosen


def test_an_imported_class_does_not_count_as_defined(model: Model) -> None:
    other = f"class Base:\n {PREDICT}"
    directory = model(f"from other import Base\nclass Mine(Base):\n {PREDICT}", other__py=other)
    assert load(directory).__name__ == "Mine"


def test_an_imported_class_is_served_where_the_file_gives_it_to_run(model: Model) -> None:
    source = f"from net import Digits\nclass Model:\n {PREDICT}\n{GUARD} s.run(Digits)"
    directory = model(source, net__py=f"class Digits:\n {PREDICT}")
    assert load(directory).__name__ == "Digits"


def test_a_predictor_of_a_library_does_not_stand_in_for_the_files_own(model: Model) -> None:
    library = f"class Predictor:\n {PREDICT}"
    directory = model(f"from net import Predictor\nclass Mine:\n {PREDICT}", net__py=library)
    assert load(directory).__name__ == "Mine"


def test_a_predictor_that_is_imported_is_served_where_there_is_no_other(model: Model) -> None:
    directory = model("from net import Predictor", net__py=f"class Predictor:\n {PREDICT}")
    assert load(directory).__module__ == "net"


def test_what_a_script_has_pickled_is_found(model: Model) -> None:
    loads = 'pickle.loads(b"c__main__\\nNet\\n.")'  # what is called Net in __main__
    source = f"import pickle\nclass Net: pass\nearly = {loads}\n"
    chosen = load(model(f"{source}class Predictor:\n def predict(self): return {loads}"))
    names = vars(sys.modules["predictor"])
    assert chosen().predict() is names["early"] is names["Net"]


def test_main_stays_what_it_is_to_what_would_run_it_again(model: Model) -> None:
    main = sys.modules["__main__"]
    names = ("__file__", "__spec__", "__doc__", "__path__", "__version__")
    before = [getattr(main, name, None) for name in names]
    load(model(f"__version__ = __doc__ = '1'\nclass Predictor:\n {PREDICT}"))
    assert [getattr(main, name, None) for name in names] == before


@pytest.mark.parametrize(
    "base",
    [
        f"import abc\nclass Base(abc.ABC):\n @abc.abstractmethod\n {PREDICT}",
        f"import typing\nclass Base(typing.Protocol):\n {PREDICT}",
    ],
)
def test_an_abstract_class_is_not_the_one_to_serve(model: Model, base: str) -> None:
    assert load(model(f"{base}\nclass Mine(Base):\n {PREDICT}")).__name__ == "Mine"


@pytest.mark.parametrize(
    ("source", "class_name", "message"),
    [
        (f"class A:\n {PREDICT}\nclass B:\n {PREDICT}", None, "several classes have predict: A, B"),
        ("class A: pass", None, "no class with a predict method; it defines A"),
        ("", None, "no class with a predict method; it defines nothing"),
        ("def Predictor(): 0", None, "no class with a predict method; Predictor is a function"),
        (
            f"class Net:\n {PREDICT}",
            "Met",
            r"no class 'Met' \(did you mean 'Net'\?\); there is Net",
        ),
    ],
)
def test_no_class_to_choose_lists_the_candidates(
    model: Model, source: str, class_name: str | None, message: str
) -> None:
    with pytest.raises(LoadError, match=message):
        load(model(source), class_name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ndef f(:", "predictor.py:2: SyntaxError: invalid syntax"),
        ("\n\n1 / 0", "predictor.py:3: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(0)", "predictor.py:2: called sys.exit(0) while being imported"),
        (
            "import no_such_package.x",
            "predictor.py:1: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        ("import helper\nhelper.f()", "helper.py:1: KeyError: 'k'"),
        ("import json\njson.loads('{')", "predictor.py:2: JSONDecodeError: Expecting property"),
        ("raise ValueError('a\\nb')", "predictor.py:1: ValueError: a"),
        ("raise ValueError", "predictor.py:1: ValueError"),
        ("raise ValueError('x' * 1000)", "predictor.py:1: ValueError: xxx"),
    ],
)
def test_a_failing_import_is_one_line_with_its_place(
    model: Model, source: str, message: str
) -> None:
    with pytest.raises(LoadError) as got:
        load(model(source, helper__py="def f(): raise KeyError('k')"))
    assert str(got.value).startswith(message)
    assert "\n" not in str(got.value)
    assert len(str(got.value)) < 400
    assert got.value.__cause__ is not None
    assert "predictor" not in sys.modules


def test_a_missing_package_is_named_as_pip_knows_it(model: Model) -> None:
    with pytest.raises(LoadError) as got:
        load(model("raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2.dnn')"))
    assert got.value.hint is not None
    assert got.value.hint.startswith("pip install opencv-python-headless")


def test_the_users_traceback_starts_in_the_users_file(model: Model) -> None:
    directory = model("import helper\nhelper.f()", helper__py="def f(): raise KeyError('k')")
    with pytest.raises(LoadError) as got:
        load(directory)
    assert got.value.__cause__ is not None
    lines = user_traceback(got.value.__cause__, directory).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{directory}/predictor.py", line 2, in <module>'
    assert "importlib" not in "".join(lines)


def test_a_syntax_errors_traceback_shows_only_the_line(model: Model) -> None:
    directory = model("def f(:")
    with pytest.raises(LoadError) as got:
        load(directory)
    assert got.value.__cause__ is not None
    text = user_traceback(got.value.__cause__, directory)
    assert "def f(:" in text
    assert "loader.py" not in text


def test_an_exception_from_nowhere_in_the_directory_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="invalid literal") as got:
        int("x")
    assert "test_loader" in user_traceback(got.value, tmp_path)


def test_the_module_is_not_main_and_nothing_is_written(model: Model) -> None:
    directory = model(f"import helper\nclass Predictor:\n {PREDICT}", helper__py="")
    assert load(directory).__module__ == "predictor"
    assert sorted(path.name for path in directory.iterdir()) == ["helper.py", "predictor.py"]
    assert sys.path[0] == str(directory)


@pytest.mark.parametrize(
    ("file", "module"), [("my-net.py", "my_net"), ("json.py", "predictor_json")]
)
def test_another_file_is_imported_under_its_own_name(model: Model, file: str, module: str) -> None:
    path = model() / file
    path.write_text(f"class Predictor:\n {PREDICT}")
    assert loader.load_class(path, None).__module__ == module


def test_a_package_of_the_files_own_name_is_beside_it(model: Model) -> None:
    directory = model(f"from predictor.net import Net\nclass Predictor(Net):\n {PREDICT}")
    (directory / "predictor").mkdir()
    (directory / "predictor" / "__init__.py").touch()
    (directory / "predictor" / "net.py").write_text("class Net: pass")
    assert load(directory).__mro__[1].__module__ == "predictor.net"
    del sys.modules["predictor"]


def test_openbayes_serving_is_ours_even_beside_another(model: Model) -> None:
    source = (
        f"import openbayes_serving as serv\nclass Predictor:\n emit = serv.emit_event\n {PREDICT}"
    )
    chosen = load(model(source, openbayes_serving__py="1/0"))
    assert chosen.emit.__module__ == "obworker.predictor.events"  # type: ignore[attr-defined]


def test_announcing_counts_only_while_loading() -> None:
    assert not loader.announce(int)


def test_run_wants_the_class_and_not_an_instance(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obworker

    monkeypatch.setattr(obworker, "run", loader.announce)
    source = f"import openbayes_serving as s\nclass A:\n {PREDICT}\ns.run(A())"
    with pytest.raises(LoadError, match=r"run\(\) takes the class, not a A"):
        load(model(source))
