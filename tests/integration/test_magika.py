"""Google's magika model, served with four workers, agrees with the magika library on every file."""

from __future__ import annotations

import csv
import gzip
import http.client
import io
import json
import os
import random
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import ROOT, Serve
from PIL import Image

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # magika imports onnxruntime, which reads it

import magika

PACKAGE = Path(magika.__file__).parent
SOURCES = ("obworker", "examples", "docs", "conf", "scripts", "tests")
MAX_SIZE = 1 << 20
CLIENTS = 8


def repository_files() -> dict[str, bytes]:
    found = [path for path in ROOT.iterdir() if not path.name.startswith(".")]
    for folder in SOURCES:
        found += (ROOT / folder).rglob("*")
    return {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in found
        if path.is_file() and "__pycache__" not in path.parts and path.stat().st_size <= MAX_SIZE
    }


def image(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, form)
    return buffer.getvalue()


def archives(content: bytes) -> dict[str, bytes]:
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("content.txt", content)
    member = tarfile.TarInfo("content.txt")
    member.size = len(content)
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        archive.addfile(member, io.BytesIO(content))
    return {
        "a zip": zipped.getvalue(),
        "a tar": tarred.getvalue(),
        "a gzip": gzip.compress(content, mtime=0),
    }


def texts() -> dict[str, str]:
    rows = io.StringIO()
    csv.writer(rows).writerows([("city", "people", "area")] + [("Paris", 2_100_000, 105.4)] * 20)
    return {
        "csv": rows.getvalue(),
        "json": json.dumps({"items": [{"id": n, "on": True} for n in range(40)]}, indent=2),
        "shell": '#!/bin/sh\nset -e\nfor file in *.txt; do\n  echo "$file" | wc -c\ndone\n',
        "html": "<!DOCTYPE html><html><head><title>t</title></head><body><p>hi</p></body></html>\n",
        "xml": '<?xml version="1.0"?>\n<list>\n' + '  <item id="1">one</item>\n' * 20 + "</list>\n",
        "c": '#include <stdio.h>\n\nint main(void) {\n    puts("hello");\n    return 0;\n}\n',
        "english": "The quick brown fox jumps over the lazy dog, and then it does so again. " * 20,
        "white space before": " \n" * 3000 + "import os\nprint(os.name)\n",
        "white space only": " \t\n" * 500,
        "one letter": "a",
        "seven letters": "letters",
        "eight letters": "letters!",
    }


def made_files() -> dict[str, bytes]:
    """Files of many kinds, the same in every run."""
    generator = random.Random(7)
    samples = {label: text.encode() for label, text in texts().items()}
    samples |= archives(samples["english"])
    samples |= {form: image(form) for form in ("PNG", "JPEG", "GIF", "BMP", "PDF")}
    samples |= {f"{size} random bytes": generator.randbytes(size) for size in (1, 7, 8, 1024, 9000)}
    return samples | {"empty": b"", "zeros": bytes(5000), "not UTF-8": b"\xff\xfe\xfd"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Lay out a model directory: the predictor and the files it takes from the package."""
    weights = PACKAGE / "models" / magika.Magika().get_model_name()
    shutil.copy(ROOT / "tests" / "models" / "magika" / "predictor.py", tmp_path)
    shutil.copy(weights / "model.onnx", tmp_path)
    shutil.copy(weights / "config.min.json", tmp_path)
    shutil.copy(PACKAGE / "config" / "content_types_kb.min.json", tmp_path)
    return tmp_path


def labels(port: int, bodies: list[bytes]) -> list[str]:
    """Ask for each body's label over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    answers = []
    for body in bodies:
        connection.request("POST", "/", body=body)
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        answers.append(json.loads(answer)["label"])
    connection.close()
    return answers


def test_served_labels_are_the_librarys(model: Path, serve: Serve) -> None:
    corpus = repository_files() | made_files()
    names = sorted(corpus)
    library = magika.Magika()
    expected = {name: str(library.identify_bytes(corpus[name]).output.label) for name in names}
    assert len(set(expected.values())) > 15, "the corpus is not varied enough to prove anything"

    server = serve("--workers", "4", str(model)).wait_until_ready(4)
    shares = [names[client::CLIENTS] for client in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(
            clients.map(lambda share: labels(server.port, [corpus[name] for name in share]), shares)
        )

    served = {
        name: label
        for share, found in zip(shares, answers, strict=True)
        for name, label in zip(share, found, strict=True)
    }
    assert served == expected
