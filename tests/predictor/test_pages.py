"""What the pages show of Python is Python, and what they show of predictors can be loaded."""

from __future__ import annotations

import ast
import importlib.util
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from contract.inits import IDENTITY
from harness import ROOT

from obworker.predictor import application

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SNIPPETS = [
    pytest.param(textwrap.dedent(code), id=f"{page.name}-{number}")
    for page in PAGES
    for number, code in enumerate(
        re.findall(r"^ *```python\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)
    )
]
PREDICTORS = [snippet for snippet in SNIPPETS if "class Predictor:" in str(snippet.values[0])]


@pytest.mark.parametrize("code", SNIPPETS)
def test_what_a_page_shows_of_python_is_python(code: str) -> None:
    ast.parse(code)


@pytest.mark.parametrize("code", PREDICTORS)
def test_a_predictor_of_a_page_can_be_loaded(model: Callable[..., Path], code: str) -> None:
    for name in re.findall(r"^import (\w+)", code, re.MULTILINE):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    if "def predict" not in code:
        code += "\n    def predict(self): pass\n"
    directory = model(code, model__py="def load(weights): 0\n")
    (directory / "model.onnx").write_bytes(IDENTITY)
    assert application.load(str(directory)).description
