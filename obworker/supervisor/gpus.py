"""Which devices belong to which slot. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from obworker.errors import UsageError
from obworker.supervisor.visibility import (
    CUDA,
    FAMILIES,
    HIP,
    Family,
    Listing,
    family_of,
    parse_visible,
)

ORDER_VARIABLE = "CUDA_DEVICE_ORDER"


@dataclass(frozen=True)
class Device:
    """What one slot may see: tokens as its family's variable lists them, empty for none.

    `mirrors` are other variables that say the same to the same runtime.
    """

    token: str
    order: str | None = None
    family: Family = CUDA
    mirrors: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What titles and logs call it."""
        shown = ",".join(map(self._shown, self.tokens))
        return f"{self.family.kind} {shown}" if shown else "cpu"

    @property
    def tokens(self) -> list[str]:
        """One for each device."""
        return self.token.split(",") if self.token else []

    def _shown(self, token: str) -> str:
        """Return a token, or as much of a UUID as tells it from others.

        In the older form of MIG's (MIG-GPU-…/7/0) that is its end.
        """
        is_long = self.family.is_uuid(token) and "/" not in token
        return token[:12] if is_long else token

    @property
    def environment(self) -> dict[str, str]:
        """The variables that hold a worker to it."""
        told = {"OBWORKER_DEVICES": self.token}
        if not self.token:
            # HIP takes an empty CUDA_VISIBLE_DEVICES for one that is not set.
            return told | {family.variable: family.nothing for family in FAMILIES}
        told |= dict.fromkeys((self.family.variable, *self.mirrors), self.token)
        return told | ({ORDER_VARIABLE: self.order} if self.order else {})


def select(
    gpus: str, environ: Mapping[str, str], enumerate_: Callable[[], Listing]
) -> list[Device]:
    """Return the devices to use, from the option ``--gpus`` and what is visible.

    Indices in the option count what the environment leaves visible. Tokens that were there are kept
    to the letter, and stay in the same variable. What we enumerate ourselves is in PCI bus order,
    and CUDA is told so.

    Raises:
        UsageError: a device is not there, comes twice, or is named in another way than the others.
    """
    if gpus == "none":
        return []
    order, family = environ.get(ORDER_VARIABLE), family_of(environ)
    if family is not None:
        visible = parse_visible(environ[family.variable], family)
    else:
        family, visible = enumerate_()
        order = order or ("PCI_BUS_ID" if family is CUDA else None)
    chosen = visible if gpus == "auto" else _pick(gpus, visible, family)
    mirrors = _mirrors(family, environ)
    return [Device(token, order, family, mirrors) for token in chosen]


def _mirrors(family: Family, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return HIP's variable where CUDA's is narrowed: HIP reads its own before that."""
    return (HIP.variable,) if family is CUDA and HIP.variable in environ else ()


def _pick(gpus: str, visible: list[str], family: Family) -> list[str]:
    chosen: list[str] = []
    for token in gpus.split(","):
        token = _find(token, visible, family)
        if token in chosen:
            raise UsageError(f"--gpus: {gpus!r} names {token!r} twice")
        chosen.append(token)
    if not family.mixes and len(set(map(family.is_uuid, chosen))) > 1:
        raise UsageError(f"--gpus: {gpus!r} has indices and UUIDs; {family.runtime} takes one kind")
    return chosen


def _find(token: str, visible: list[str], family: Family) -> str:
    """Return the visible device that a token of the option means."""
    if token.isdecimal():
        matches = visible[int(token) : int(token) + 1]
    elif visible and family.is_uuid(token) and not family.is_uuid(visible[0]):
        return token  # visible by index: the runtime will know the UUID, we do not
    else:
        matches = [device for device in visible if device.startswith(token)]
    if len(matches) != 1:
        wrong = "there is more than one GPU" if matches else "there is no GPU"
        raise UsageError(f"--gpus: {wrong} {token!r}; visible: {', '.join(visible) or 'none'}")
    return matches[0]


def grouped(devices: list[Device], size: int) -> list[Device]:
    """Put devices together, so many for a slot, or all of them for 0.

    Without a GPU there is one that shows none, so that nobody takes the first one by chance.

    Raises:
        UsageError: some would be left over.
    """
    if not devices:
        return [Device("")]
    size = size or len(devices)
    if len(devices) % size:
        raise UsageError(
            f"--gpus-per-worker: {len(devices)} GPUs cannot be dealt out by {size};"
            " --gpus can say which to use, and 0 gives all to each worker"
        )
    return [_together(devices[i : i + size]) for i in range(0, len(devices), size)]


def _together(devices: list[Device]) -> Device:
    first = devices[0]
    tokens = [device.token for device in devices]
    if first.family.ascends:
        tokens.sort(key=int)
    return replace(first, token=",".join(tokens))


def default_workers(groups: list[Device], per_gpu: int) -> int:
    """Return how many workers there are where nobody says it: one where there is no GPU."""
    return len(groups) * per_gpu if groups[0].token else 1
