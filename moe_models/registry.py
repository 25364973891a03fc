"""Component registries: one per slot of the model, filled by the files of that slot's package.

A component is a frozen keyword-only dataclass (its configuration) that knows how to `build` its module. Decorating
it with `@SLOT.register("kind")`, and with `@SLOT.preset("name")` a function that gives its configuration at a size, is
all that makes it known to the model, the studies and the contract tests.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from moe_models.errors import ConfigError, unknown_name
from moe_models.size import Size

T = TypeVar("T")


class Registry(Generic[T]):
    """One slot's components: their configuration classes by kind, and their presets by name."""

    def __init__(self, slot: str) -> None:
        self.slot = slot
        self._classes: dict[str, type[T]] = {}
        self._presets: dict[str, Callable[[Size], T]] = {}

    def register(self, kind: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make a configuration class known as `kind` and set its `kind` attribute."""

        def add(cls: type[T]) -> type[T]:
            assert kind not in self._classes, f"{self.slot} '{kind}' is registered twice"
            assert dataclasses.is_dataclass(cls), f"{cls.__name__} must be a dataclass"
            cls.kind = kind  # type: ignore[attr-defined]
            self._classes[kind] = cls
            return cls

        return add

    def preset(self, name: str) -> Callable[[Callable[[Size], T]], Callable[[Size], T]]:
        """Function decorator: make a configuration, as a function of the model's size, known as `name`."""

        def add(configure: Callable[[Size], T]) -> Callable[[Size], T]:
            assert name not in self._presets, f"{self.slot} preset '{name}' is registered twice"
            self._presets[name] = configure
            return configure

        return add

    def presets(self) -> list[str]:
        """Return the names of all presets, sorted."""
        return sorted(self._presets)

    def configure(self, preset: str, size: Size) -> T:
        """Return the configuration of a preset at a size."""
        if preset not in self._presets:
            raise unknown_name(self.slot, preset, self._presets)
        return self._presets[preset](size)

    def __getitem__(self, kind: str) -> type[T]:
        if kind not in self._classes:
            raise unknown_name(self.slot, kind, self._classes)
        return self._classes[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def from_dict(self, data: Mapping[str, Any]) -> T:
        """Rebuild a component configuration from `to_dict`'s output: its fields and the tag `kind`."""
        fields = dict(data)
        cls = self[fields.pop("kind")]
        return cast(T, dataclass_from_dict(cls, fields, self.slot))


def dataclass_from_dict(cls: type, data: Mapping[str, Any], where: str) -> Any:
    """Build a dataclass from a mapping, naming every unknown or missing field.

    A field whose metadata holds `registry` is a child component and is rebuilt through that registry.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in data:
        if name not in fields:
            raise unknown_name(f"field of {where}", name, fields)
    missing = [
        name
        for name, f in fields.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    values = dict(data)
    for name, value in data.items():
        registry = fields[name].metadata.get("registry")
        if registry is not None and isinstance(value, Mapping):
            values[name] = registry.from_dict(value)
        elif isinstance(value, list):
            values[name] = tuple(value)  # JSON has no tuples, configurations no lists
    return cls(**values)


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a configuration dataclass into plain data; registered components carry their tag `kind`.

    A `published_setting` that is at its default is left out.
    """
    result: dict[str, Any] = {}
    if hasattr(config, "kind"):
        result["kind"] = config.kind
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.metadata.get("published") and value == f.default:
            continue
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        result[f.name] = list(value) if isinstance(value, tuple) else value
    return result


def component(registry: Registry[Any], **kwargs: Any) -> Any:
    """Dataclass field that holds a child component of the given registry."""
    return dataclasses.field(metadata={"registry": registry}, **kwargs)


def published_setting(default: Any) -> Any:
    """Dataclass field that is there to rebuild what was published, or for one special study; at its default it changes
    nothing.

    Plain data leaves it out at its default, so that the address of a sound run does not depend on what else can be set.
    """
    return dataclasses.field(default=default, metadata={"published": True})


def import_submodules(package: str) -> None:
    """Import every module of a package, so that a component in a new file registers itself."""
    path = importlib.import_module(package).__path__
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
