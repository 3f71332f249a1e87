"""What is in a model directory, and which class of it is served."""

from __future__ import annotations

from collections.abc import Iterator

from contract.rows import JSON, TEXT, Case, Model, single, to_json

FILES = Model(
    "files",
    {
        "predictor.py": """
import os
import pathlib
import openbayes_serving as serv
from models.experimental import Scaler, attempt

class Settings:
    pass

class PythonPredictor:
    def __init__(self):
        with open("labels.txt") as file:
            self.labels = file.read().split()

    def predict(self, params):
        return {
            "class": lambda: type(self).__name__,
            "labels": lambda: self.labels,
            "later": lambda: pathlib.Path("data/deep.txt").read_text(),
            "sibling": lambda: attempt(2),
            "dotenv": lambda: [os.environ.get("GREETING"), os.environ.get("QUOTED")],
            "environ": lambda: os.environ.get("FROM_OUTSIDE"),
            "cwd": lambda: os.path.samefile(os.getcwd(), os.path.dirname(__file__)),
            "name": lambda: __name__ != "__main__",
            "serv": lambda: [callable(serv.run), callable(serv.emit_event)],
        }[params["see"]]()

if __name__ == "__main__":
    raise SystemExit("the guard ran")
""",
        "models/__init__.py": "",
        "models/experimental.py": """
class Scaler:
    def predict(self, json):
        return "the wrong class"

def attempt(n):
    return n * 21
""",
        "labels.txt": "cat\ndog\n",
        "data/deep.txt": "deep",
        ".env": "GREETING=hello\nQUOTED='a b'\nFROM_OUTSIDE=.env\n",
        "requirements.txt": "this-package-does-not-exist==0\n",
        "conda-packages.txt": "neither-does-this\n",
        "dependencies.sh": "echo dependencies > installed\n",
        # what an installed openbayes-serving would be: never imported
        "openbayes_serving/__init__.py": "raise RuntimeError('the wrong openbayes_serving')\n",
    },
    environ={"FROM_OUTSIDE": "outside"},
    read_only=True,
)
TWO = """
class Other:
    def predict(self):
        return "Other"

class Predictor:
    def predict(self):
        return "Predictor"
"""
CLASSES = {
    "Predictor": single("class-predictor", TWO),
    "Other": single("class-named", TWO, class_name="Other"),
    "Unguarded": single(
        "class-unguarded",
        TWO
        + """
import openbayes_serving

class Unguarded:
    def predict(self):
        return "Unguarded"

openbayes_serving.run(Unguarded)
""",
    ),
    "Derived": Model(
        "class-imported",
        {
            "predictor.py": """
from base import Base, Another

class Derived(Base):
    pass
""",
            "base.py": """
class Base:
    def predict(self):
        return type(self).__name__

class Another(Base):
    pass
""",
        },
    ),
}


def file_cases() -> Iterator[Case]:
    seen = {
        "labels": ["cat", "dog"],
        "later": "deep",
        "sibling": 42,
        "dotenv": ["hello", "a b"],
        "environ": "outside",
        "cwd": True,
        "name": True,
        "serv": [True, True],
        "class": "PythonPredictor",
    }
    for name, value in seen.items():
        is_text = isinstance(value, str)
        yield Case(
            f"files-{name}",
            FILES,
            content_type=TEXT if is_text else JSON,
            body=value.encode() if isinstance(value, str) else to_json(value),
            path=f"/?see={name}",
        )
    for name, model in CLASSES.items():
        yield Case(model.name, model, content_type=TEXT, body=name.encode())
