"""The serving spec: a YAML file that says which aliases are served and how, read into `EndpointSpec` values and written
from them. Knows nothing of what is served now.

``defaults`` holds what entries of ``endpoints`` do not say themselves; groups (``limits``, ``log``, …) are merged field
by field. ``docs/serving-spec.md`` describes every field.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from rayplat.errors import InvalidInput
from rayplat.registry import endpoint_rules
from rayplat.serve.deployment import units
from rayplat.types import Autoscale, Batching, EndpointSpec, Explaining, Limits, Logging

_LARGEST = 1 << 20
_DEFAULTS: dict[str, Any] = {
    "autoscale": Autoscale(),
    "batching": Batching(),
    "limits": Limits(),
    "log": Logging(),
    "explain": Explaining(),
}


def _read(convert: Any) -> BeforeValidator:
    def validate(value: object) -> Any:
        try:
            return convert(value)
        except InvalidInput as e:
            raise ValueError(e.reason) from None

    return BeforeValidator(validate)


def _rate(value: object) -> object:
    """Requests per second, as a number or like ``100/s``."""
    if not isinstance(value, str):
        return value
    number, _, unit = value.partition("/")
    per_s = {"s": 1, "m": 60, "min": 60, "h": 3600}.get(unit.strip())
    if per_s is None or not number.strip().replace(".", "", 1).isdigit():
        raise InvalidInput("rate", f"{value[:40]!r} is no rate: write requests per second, such as 100 or 100/s")
    return float(number) / per_s


_Seconds = Annotated[float, _read(units.seconds)]
_Milliseconds = Annotated[float, _read(units.milliseconds)]
_Count = Annotated[int, _read(units.count)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Autoscale(_Section):
    min_replicas: _Count = Autoscale.min_replicas
    max_replicas: _Count = Autoscale.max_replicas
    target_ongoing: float = Autoscale.target_ongoing
    upscale_delay: _Seconds = Autoscale.upscale_delay_s
    downscale_delay: _Seconds = Autoscale.downscale_delay_s

    def value(self) -> Autoscale:
        replicas = (self.min_replicas, self.max_replicas)
        return Autoscale(*replicas, self.target_ongoing, self.upscale_delay, self.downscale_delay)


class _Batching(_Section):
    max_rows: _Count | None = None
    window: _Milliseconds | None = Batching.window_ms


class _Limits(_Section):
    queue: _Count | None = Limits.queue
    deadline: _Seconds = Limits.deadline_s
    concurrency: _Count = Limits.concurrency
    rate: Annotated[float | None, _read(_rate)] = Limits.rate
    burst: _Count = Limits.burst

    def value(self) -> Limits:
        return Limits(self.queue, self.deadline, self.concurrency, self.rate, self.burst)


class _Log(_Section):
    sample: float = Logging.sample
    durability: str = Logging.durability
    redact: list[str] = []


class _Explain(_Section):
    max_evaluations: _Count = Explaining.max_evaluations
    max_rows: _Count = Explaining.max_rows


class _Common(_Section):
    placement: str = EndpointSpec.placement
    replicas: _Count = EndpointSpec.replicas
    autoscale: _Autoscale | None = None
    cpus: float | None = EndpointSpec.cpus
    gpus: float = EndpointSpec.gpus
    pinned: bool = EndpointSpec.pinned
    public: bool = EndpointSpec.public
    batching: _Batching = _Batching()
    limits: _Limits = _Limits()
    log: _Log = _Log()
    explain: _Explain = _Explain()


class _Entry(_Common):
    model: str
    alias: str = EndpointSpec.alias
    default: bool = EndpointSpec.default

    def value(self) -> EndpointSpec:
        return EndpointSpec(
            self.model,
            self.alias,
            placement=self.placement,
            replicas=self.replicas,
            autoscale=None if self.autoscale is None else self.autoscale.value(),
            cpus=self.cpus,
            gpus=self.gpus,
            pinned=self.pinned,
            public=self.public,
            default=self.default,
            batching=Batching(self.batching.max_rows, self.batching.window),
            limits=self.limits.value(),
            log=Logging(self.log.sample, self.log.durability, tuple(self.log.redact)),
            explain=Explaining(self.explain.max_evaluations, self.explain.max_rows),
        )


def parse(text: str) -> tuple[EndpointSpec, ...]:
    """The endpoints of a serving spec, in its order. Raises `InvalidInput` naming the path of what is wrong."""
    document = _loaded(text)
    if not isinstance(document, dict):
        raise InvalidInput("spec", "it must be a mapping with 'endpoints', and 'defaults' where it has any")
    for name in document:
        if name not in ("defaults", "endpoints"):
            raise InvalidInput(_path((name,)), "it is not known here; known are defaults, endpoints")
    defaults = document.get("defaults") or {}
    _validated(_Common, defaults, "defaults")
    entries = document.get("endpoints", [])
    if not isinstance(entries, list):
        raise InvalidInput("endpoints", "it must be a list")
    found = tuple(_entry(defaults, entry, f"endpoints[{i}]") for i, entry in enumerate(entries))
    check(found)
    return found


def check(specs: Sequence[EndpointSpec]) -> None:
    """Raises `InvalidInput` where two entries are of the same alias, or two are the default."""
    seen: dict[tuple[str, str], int] = {}
    default: int | None = None
    for i, spec in enumerate(specs):
        first = seen.setdefault((spec.model, spec.alias), i)
        if first != i:
            reason = f"{spec.model}/{spec.alias} is endpoints[{first}] already"
            raise InvalidInput(f"endpoints[{i}]", reason)
        if spec.default and default is not None:
            raise InvalidInput(f"endpoints[{i}].default", f"endpoints[{default}] is the default; there is one at most")
        default = i if spec.default else default


def dump(specs: Sequence[EndpointSpec]) -> str:
    """A serving spec that `parse` reads as exactly ``specs``; what is as by default is left out."""
    import yaml

    entries = [_plain(spec, EndpointSpec(spec.model, spec.alias), ("model", "alias")) for spec in specs]
    return str(yaml.safe_dump({"endpoints": entries}, sort_keys=False, default_flow_style=False))


def _entry(defaults: Mapping[str, Any], entry: object, where: str) -> EndpointSpec:
    if not isinstance(entry, dict):
        raise InvalidInput(where, "it must be a mapping with at least 'model'")
    merged = {**defaults, **entry}
    for group in _DEFAULTS:
        if isinstance(defaults.get(group), dict) and isinstance(entry.get(group), dict):
            merged[group] = {**defaults[group], **entry[group]}
    return endpoint_rules.check(_validated(_Entry, merged, where).value(), where)


def _validated(kind: Any, value: object, where: str) -> Any:
    try:
        return kind.model_validate(value)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        known = "it is not known here" if first["type"] == "extra_forbidden" else first["msg"]
        raise InvalidInput(_path((where, *first["loc"])), known.removeprefix("Value error, ")) from None
    except RecursionError:
        raise InvalidInput(where, "it is nested too deeply") from None


def _path(parts: Sequence[object]) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{str(part)[:80]}"
    return path


def _loaded(text: str) -> Any:
    import yaml

    if len(text) > _LARGEST:
        raise InvalidInput("spec", f"it has {len(text)} characters, the limit is {_LARGEST}")

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Refuses a key that is there twice: YAML's last one would win silently."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            keys: set[str] = set()
            for key, _ in node.value:
                if key.value in keys and key.tag != "tag:yaml.org,2002:merge":
                    line = key.start_mark.line + 1
                    raise InvalidInput("spec", f"line {line}: {str(key.value)[:80]!r} is there twice")
                keys.add(key.value if isinstance(key.value, str) else str(key.value))
            found: dict[Hashable, Any] = super().construct_mapping(node, deep)
            return found

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise InvalidInput("spec", f"it is no YAML: {where}{getattr(e, 'problem', None) or 'it cannot be read'}") from e
    except (RecursionError, ValueError) as e:
        raise InvalidInput("spec", f"it cannot be read: {str(e)[:120]}") from e


def _plain(value: Any, default: Any, always: Sequence[str] = ()) -> dict[str, Any]:
    """The fields that differ from ``default``, as the file spells them."""
    found: dict[str, Any] = {}
    for field in fields(value):
        own = getattr(value, field.name)
        if own == getattr(default, field.name) and field.name not in always:
            continue
        if is_dataclass(own):
            found[field.name] = _plain(own, _DEFAULTS[field.name])
        elif field.name.endswith("_s"):
            found[field.name[:-2]] = units.duration_text(own)
        elif field.name.endswith("_ms"):
            found[field.name[:-3]] = None if own is None else units.milliseconds_text(own)
        else:
            found[field.name] = list(own) if isinstance(own, tuple) else own
    return found
