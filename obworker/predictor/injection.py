"""Plans how the parameters of a signature are filled, by their names."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import WrapperDescriptorType
from typing import TYPE_CHECKING, TypeVar

from obworker.errors import InjectionError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PRELOADED = "preloaded"
INIT_NAMES = ("onnx", "config", PRELOADED)
HEALTH_NAMES = ("health", "is_ready")
PRELOAD = "@classmethod def preload(cls)"
PREDICT_NAMES = ("json", "payload", "data", "params", "args", "headers", "request")

Source = TypeVar("Source")


@dataclass(frozen=True)
class Plan:
    """Which known names a callable takes, and how each must be passed.

    `positional` also has the defaults of unknown positional-only parameters that come before a
    known one: they cannot be left out, so their defaults are passed.
    """

    title: str
    positional: tuple[tuple[str, object], ...] = ()
    keywords: tuple[str, ...] = ()
    known: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The known names that are asked for, in the order of the signature."""
        return tuple(name for name, _ in self.positional if name in self.known) + self.keywords

    def bind(
        self, function: Callable[..., object], resolvers: Mapping[str, Callable[[Source], object]]
    ) -> Callable[[Source], object]:
        """Return a call of `function` that gets each argument from a source by its resolver."""
        positional = tuple(
            resolvers[name] if name in self.known else _constant(default)
            for name, default in self.positional
        )
        keywords = tuple((name, resolvers[name]) for name in self.keywords)
        if len(keywords) == 1 and not positional:  # the usual case, and faster
            ((name, resolve),) = keywords
            return lambda source: function(**{name: resolve(source)})
        return lambda source: function(
            *[resolve(source) for resolve in positional],
            **{name: resolve(source) for name, resolve in keywords},
        )


@dataclass(frozen=True)
class BatchPlan:
    """The plans for calling predict_batch, and batch_key where there is one."""

    predict: Plan
    key: Plan | None

    @property
    def description(self) -> str:
        """What is called, for people."""
        called = f"predict_batch({', '.join(self.predict.names)})"
        return f"{called}, by batch_key({', '.join(self.key.names)})" if self.key else called


def plan_init(predictor: type) -> Plan:
    """Return the plan for constructing `predictor`."""
    title = f"{predictor.__name__}.__init__"
    known: tuple[str, ...] = INIT_NAMES
    if not has_preload(predictor):
        known = tuple(name for name in INIT_NAMES if name != PRELOADED)
    if isinstance(inspect.getattr_static(predictor, "__init__"), WrapperDescriptorType):
        return Plan(title, known=known)  # of object, or of a built-in class: it takes none of these
    if is_async(predictor, "__init__"):
        raise InjectionError(f"{title} is async def; it must be a plain function")
    return _plan(title, _bound(predictor, "__init__"), known)


def plan_predict(predictor: type, name: str = "predict") -> Plan:
    """Return the plan for calling predict, or another method with the same parameters."""
    title = f"{predictor.__name__}.{name}"
    method = _bound(predictor, name)
    _check_self(predictor, name, title)
    return _plan(title, method, PREDICT_NAMES)


def plan_batches(predictor: type) -> BatchPlan | None:
    """Return the plan for calling predict_batch, if `predictor` has one."""
    if not has_method(predictor, "predict_batch"):
        return None
    plan = plan_predict(predictor, "predict_batch")
    if not plan.names:
        names = ", ".join(PREDICT_NAMES)
        raise InjectionError(f"{plan.title} asks for none of {names}, of which it would get lists")
    if not has_method(predictor, "batch_key"):
        return BatchPlan(plan, None)
    if is_async(predictor, "batch_key"):
        title = f"{predictor.__name__}.batch_key"
        raise InjectionError(f"{title} is async def; it must be a plain function")
    return BatchPlan(plan, plan_predict(predictor, "batch_key"))


def has_method(predictor: type, *names: str) -> bool:
    """Return whether `predictor` has a method of one of these names."""
    return any(callable(getattr(predictor, name, None)) for name in names)


def is_async(predictor: type, name: str) -> bool:
    """Return whether a method of `predictor` is ``async def``, with or without a yield."""
    method = _bound(predictor, name)
    return inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


def has_background_run(predictor: type) -> bool:
    """Return whether `predictor` has a ``run(self)``."""
    if not _takes_nothing(predictor, "run"):
        return False
    title = f"{predictor.__name__}.run"
    if inspect.iscoroutinefunction(_bound(predictor, "run")):
        raise InjectionError(f"{title} is async def; it must be a plain function: def run(self)")
    return True


def has_preload(predictor: type) -> bool:
    """Return whether `predictor` has a ``preload(cls)``; an instance method does not count."""
    static = inspect.getattr_static(predictor, "preload", None)
    if not isinstance(static, classmethod | staticmethod):
        return False
    title = f"{predictor.__name__}.preload"
    method = _bound(predictor, "preload")
    if not _needs_nothing(method, title):
        return False
    if inspect.iscoroutinefunction(method):
        raise InjectionError(f"{title} is async def; it must be a plain function: {PRELOAD}")
    return True


def health_method(predictor: type) -> str | None:
    """Return the name of the health method of `predictor`, if it has one."""
    return next((name for name in HEALTH_NAMES if _takes_nothing(predictor, name)), None)


def _takes_nothing(predictor: type, name: str) -> bool:
    """Return whether a method can be called without arguments; others are not for us."""
    if not callable(inspect.getattr_static(predictor, name, None)):
        return False
    return _needs_nothing(_bound(predictor, name), f"{predictor.__name__}.{name}")


def _needs_nothing(method: Callable[..., object], title: str) -> bool:
    return all(map(_is_optional, _signature(method, title).parameters.values()))


def _bound(predictor: type, name: str) -> Callable[..., object]:
    """Return the method as if bound to an instance, without making one."""
    title = f"{predictor.__name__}.{name}"
    try:
        static = inspect.getattr_static(predictor, name)
    except AttributeError:
        raise InjectionError(f"{predictor.__name__} has no {name} method") from None
    if isinstance(static, property):
        raise InjectionError(f"{title} is a property; it must be a method")
    bind = getattr(type(static), "__get__", None)
    try:
        method = bind(static, _Nobody(), predictor) if bind else static
    except Exception as error:  # a descriptor of the user's
        raise InjectionError(f"{title} cannot be looked at without an instance: {error}") from error
    if not callable(method):
        raise InjectionError(f"{title} is a {type(method).__name__}; it must be a method")
    return method  # type: ignore[no-any-return]  # whatever a descriptor gives is Any


class _Nobody:
    """Stands in for an instance, which does not exist yet."""


def _check_self(predictor: type, name: str, title: str) -> None:
    """Refuse ``def predict(json)``: the instance would be passed as json.

    Also refuse ``*args`` in place of self: it comes from a decorator that hides the parameters.
    """
    function = inspect.getattr_static(predictor, name)
    if not inspect.isfunction(function):
        return
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None:
        return
    if first.kind is first.VAR_POSITIONAL:
        hint = "functools.wraps, in the decorator, shows them"
        raise InjectionError(f"{title}: its decorator hides its parameters", hint)
    if first.name in PREDICT_NAMES:
        raise InjectionError(f"{title}: self is missing: def {name}(self, {first.name}, …)")


def _signature(method: Callable[..., object], title: str) -> inspect.Signature:
    try:
        return inspect.signature(method)
    except (TypeError, ValueError) as error:
        # a function with no place for self, or one written in C
        raise InjectionError(f"{title}: its parameters cannot be read: {error}") from error


def _plan(title: str, method: Callable[..., object], known: tuple[str, ...]) -> Plan:
    positional: list[tuple[str, object]] = []
    keywords: list[str] = []
    for name, parameter in _signature(method, title).parameters.items():
        if name not in known and not _is_optional(parameter):
            raise InjectionError(_unknown(title, name, known))
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append((name, parameter.default))
        elif name in known and parameter.kind not in _VARIADIC:
            keywords.append(name)
    while positional and positional[-1][0] not in known:
        positional.pop()
    return Plan(title, tuple(positional), tuple(keywords), known)


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _is_optional(parameter: inspect.Parameter) -> bool:
    return parameter.kind in _VARIADIC or parameter.default is not parameter.empty


def _unknown(title: str, name: str, known: tuple[str, ...]) -> str:
    if name == PRELOADED and known is not PREDICT_NAMES:
        return f"{title}: {name} is what preload() returns, and there is none: {PRELOAD}"
    method, names = (
        ("__init__", INIT_NAMES) if known is PREDICT_NAMES else ("predict", PREDICT_NAMES)
    )
    elsewhere = f"; {name} is for {method}" if name in names else did_you_mean(name, known)
    return f"{title}: unknown parameter {name!r}{elsewhere}; known are {', '.join(known)}"


def _constant(value: object) -> Callable[[object], object]:
    return lambda _: value
