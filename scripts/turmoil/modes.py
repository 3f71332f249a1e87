"""The predictors that are served, one for each mode, and broken versions of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from random import Random

PLAIN = """
class Predictor:
    def __init__(self):
        {at_init}

    def predict(self, json):
        if json["parts"]:
            return self.parts(json)
        time.sleep(json["sleep"])
        return {{"id": json["id"], "size": len(json["padding"]), "pid": os.getpid()}}

    def parts(self, json):
        for number in range(json["parts"]):
            time.sleep(0.005)
            yield f"{{json['id']}} {{number}} {{os.getpid()}}\\n"
"""

BATCHED = """
class Predictor:
    def __init__(self):
        {at_init}

    def predict_batch(self, json):
        time.sleep(0.005 + 0.001 * len(json))
        return [
            {{"id": one["id"], "size": len(one["padding"]), "pid": os.getpid()}} for one in json
        ]
"""

ASYNCHRONOUS = """
class Predictor:
    def __init__(self):
        {at_init}

    async def predict(self, json):
        if json["parts"]:
            return self.parts(json)
        await asyncio.sleep(json["sleep"])
        return {{"id": json["id"], "size": len(json["padding"]), "pid": os.getpid()}}

    async def parts(self, json):
        for number in range(json["parts"]):
            await asyncio.sleep(0.005)
            yield f"{{json['id']}} {{number}} {{os.getpid()}}\\n"
"""

SLOW_IMPORT = "time.sleep(0.7)"
FAILURE = 'raise RuntimeError("no luck")'
DAMAGES = ("this is no Python", FAILURE)

_numbers = itertools.count()


@dataclass(frozen=True)
class Mode:
    """A predictor, the options that it is served with, and whether it can stream a response."""

    source: str
    options: tuple[str, ...] = ()
    streams: bool = True

    def code(self, *, at_import: str = "", at_init: str = "pass") -> str:
        """Return the text of a predictor.py; every call returns a different one."""
        served = self.source.format(at_init=at_init)
        return f"# {next(_numbers)}\nimport asyncio, os, time\n{at_import}\n{served}"

    def broken(self, random: Random) -> str:
        """Return the text of a predictor.py that cannot be served."""
        damage = random.choice([*DAMAGES, None])
        return self.code(at_import=damage) if damage else self.code(at_init="1 / 0")


MODES = {
    "plain": Mode(PLAIN),
    "batch": Mode(BATCHED, ("--max-batch-size", "4"), streams=False),
    "threads": Mode(PLAIN, ("--threads", "2")),
    "async": Mode(ASYNCHRONOUS),
}
