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
    """The devices of a slot: `token` is the value of its family's variable, empty for none.

    `order` is that of CUDA_DEVICE_ORDER. `mirrors` are other variables of the same runtime, which
    get the same value.
    """

    token: str
    order: str | None = None
    family: Family = CUDA
    mirrors: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name in process titles and logs."""
        shown = ",".join(map(self._shown, self.tokens))
        return f"{self.family.kind} {shown}" if shown else "cpu"

    @property
    def tokens(self) -> list[str]:
        """One token for each device."""
        return self.token.split(",") if self.token else []

    def _shown(self, token: str) -> str:
        """Return a token; a UUID is shortened to what tells it from others.

        The older form of MIG (MIG-GPU-…/7/0) is not, as it differs at its end.
        """
        is_long = self.family.is_uuid(token) and "/" not in token
        return token[:12] if is_long else token

    @property
    def environment(self) -> dict[str, str]:
        """The variables that restrict a worker to these devices."""
        told = {"OBWORKER_DEVICES": self.token}
        if not self.token:
            # HIP treats an empty CUDA_VISIBLE_DEVICES as if it was not set.
            return told | {family.variable: family.nothing for family in FAMILIES}
        told |= dict.fromkeys((self.family.variable, *self.mirrors), self.token)
        return told | ({ORDER_VARIABLE: self.order} if self.order else {})


def select(
    gpus: str, environ: Mapping[str, str], enumerate_: Callable[[], Listing]
) -> list[Device]:
    """Return the devices to use, by the option ``--gpus`` and what is visible.

    Indices in the option count what the environment leaves visible. Tokens from the environment are
    kept unchanged, and stay in the same variable. Devices that we list ourselves are in the order
    of the PCI bus, and CUDA is told so.

    Raises:
        UsageError: a device does not exist, comes twice, or indices and UUIDs are mixed.
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
    """Return HIP's variable if it is set beside CUDA's: HIP reads its own first."""
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
        return token  # visible by index: only the runtime knows whose UUID it is
    else:
        matches = [device for device in visible if device.startswith(token)]
    if len(matches) != 1:
        wrong = "there is more than one GPU" if matches else "there is no GPU"
        raise UsageError(f"--gpus: {wrong} {token!r}; visible: {', '.join(visible) or 'none'}")
    return matches[0]


def grouped(devices: list[Device], size: int) -> list[Device]:
    """Group devices, `size` for each slot, or all together for 0.

    Without devices there is one empty group, so that no worker takes the first GPU by chance.

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
    """Return the default number of workers: `per_gpu` for each group, one without a GPU."""
    return len(groups) * per_gpu if groups[0].token else 1
