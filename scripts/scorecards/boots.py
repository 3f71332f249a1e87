"""Scenarios: the first start of a model that dies while it is loaded."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from itertools import pairwise

from scorecards.models import EXCEPTION, EXIT, KILLED, Damage
from scorecards.scenarios import Measured, Scenario, Serve
from scorecards.waiting import Late, eventually

MOST_ATTEMPTS = 6
ENOUGH_ATTEMPTS = 20
GIVE_UP_SECONDS = 25.0
EXIT_CODES = (3, 4)


def dying(damage: Damage, step: str, serve: Serve) -> Measured:
    """Start a model that dies during its import or in its `__init__`."""
    model = damage.at_import() if step == "import" else damage.at_init()
    server = serve(model, ready=False)

    def is_over() -> bool:
        return server.has_ended or len(server.noted(step)) > ENOUGH_ATTEMPTS

    with suppress(Late):
        eventually(is_over, GIVE_UP_SECONDS, "end of the attempts")
    attempts = [note.at for note in server.noted(step)]
    code = server.wait(0) if server.has_ended else None
    is_named = re.search(damage.cause, server.log()) is not None
    ok = len(attempts) <= MOST_ATTEMPTS and _back_off(attempts) and code in EXIT_CODES and is_named
    ended = "still trying" if code is None else f"exit {code}"
    named = "the cause named" if is_named else "the cause not named"
    span = attempts[-1] - attempts[0] if attempts else 0.0
    return Measured(ok, f"{_times(len(attempts))} in {span:.1f} s, {ended}, {named}")


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def _back_off(attempts: list[float]) -> bool:
    """Tell whether each wait between attempts was longer than the one before."""
    waits = [later - earlier for earlier, later in pairwise(attempts)]
    return all(later > earlier for earlier, later in pairwise(waits))


REQUIRED = "≤ 6 attempts, backed off, exit 3 or 4, cause named"
DAMAGES = {
    "killed": ("SIGKILL", KILLED),
    "exit": ("exit(0)", EXIT),
    "exception": ("exception", EXCEPTION),
}
STEPS = {"import": "at import", "init": "in __init__"}

SCENARIOS = tuple(
    Scenario(
        f"boot-{step}-{name}",
        f"{what} {where} at first start",
        REQUIRED,
        partial(dying, damage, step),
    )
    for step, where in STEPS.items()
    for name, (what, damage) in DAMAGES.items()
)
