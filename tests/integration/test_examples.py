"""Every command in the examples' READMEs answers what the README says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import ROOT, Serve, Server

EXAMPLES = sorted(readme.parent for readme in (ROOT / "examples").glob("*/README.md"))
PREDICTORS = [example for example in EXAMPLES if (example / "predictor.py").exists()]
DIGITS = sorted((ROOT / "tests" / "models" / "digits_images").glob("?.png"))

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Step(NamedTuple):
    command: str
    expected: str


def name(path: Path) -> str:
    return path.name


def steps(readme: str) -> list[Step]:
    """Return the commands of the ``console`` blocks, each with the output shown below it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = entry.partition("\n")
            found.append(Step(command, expected.strip()))
    return found


def matches(expected: str, output: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    return re.fullmatch(pattern, output, re.DOTALL) is not None


def curl(command: str, server: Server, directory: Path) -> str:
    """Run a README's curl line against `server`, whatever the user's own curl is set to."""
    program, *arguments = shlex.split(
        command.replace("localhost:25252", f"127.0.0.1:{server.port}")
    )
    assert program == "curl"
    fixed = ["--disable", "--noproxy", "*", "--max-time", "30"]
    run = subprocess.run(
        [program, *fixed, *arguments], cwd=directory, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def check_readme(example: Path, server: Server) -> None:
    found = steps((example / "README.md").read_text(encoding="utf-8"))
    assert found, "the README shows no request"
    for step in found:
        output = curl(step.command, server, example)
        assert matches(step.expected, output), f"$ {step.command}\n{output}"


@needs_curl
@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_readme_under_obworker(example: Path, serve: Serve) -> None:
    check_readme(example, serve(str(example)))


@needs_curl
@pytest.mark.parametrize("example", PREDICTORS, ids=name)
def test_readme_under_python(example: Path, serve: Serve) -> None:
    check_readme(example, serve(script=example / "predictor.py"))


def test_digits_reads_images_it_was_not_trained_on(serve: Serve) -> None:
    server = serve(str(ROOT / "examples" / "digits"))
    read = {
        image.stem: json.loads(server.request(body=image.read_bytes()).body)["digit"]
        for image in DIGITS
    }
    assert read == {str(digit): digit for digit in range(10)}


def test_index_names_every_example() -> None:
    index = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((.*?)/README\.md\)", index) != []
    assert set(re.findall(r"\]\((.*?)/README\.md\)", index)) == {path.name for path in EXAMPLES}
