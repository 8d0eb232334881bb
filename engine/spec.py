"""Specs: frozen, closed descriptions of things, and families of them told apart by `kind`.

A spec is the same thing on the wire and at a prompt: `{"kind": "dense", "units": 10}` is `nn.Dense(10)`.
A family (layers, losses, rules, ...) is a registry: a class with a `kind` is in it, its JSON Schema, catalogue entry, 422s and tests come from there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, TypeVar, Union

import numpy as np
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, GetJsonSchemaHandler, Tag, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError

from engine.errors import Problem, SpecError, nearest, shown

# Names people bring from other libraries, answered before spelling is tried.
FOREIGN_NAMES = {
    "lr": "learning_rate", "eta": "learning_rate", "batchsize": "batch_size", "bs": "batch_size", "strides": "stride", "val_loss": "valid_loss",
    "val_accuracy": "valid_accuracy", "validation_split": "validation", "validation_data": "validation", "from_logits": "logit_cross_entropy",
    "num_epochs": "epochs", "n_epochs": "epochs", "max_epochs": "epochs", "optim": "optimiser", "criterion": "loss", "objective": "loss",
    "p": "rate", "prob": "rate", "dropout": "rate", "out_features": "units", "hidden": "units", "size": "units", "neurons": "units", "eps": "epsilon",
    "rho": "momentum", "betas": "beta1", "use_bias": "bias", "act": "activation", "nonlinearity": "activation", "kernel_initializer": "init",
    "init_weights": "init", "random_state": "seed", "random_seed": "seed", "l2": "weight_decay", "lambda": "weight_decay", "centered": "centred",
    "sgd": "descent", "clipnorm": "clip_norm", "clipvalue": "clip_grad", "layer": "layers", "num_classes": "units", "classes": "units",
    "epoch": "epochs", "out_channels": "filters", "hidden_size": "units", "num_embeddings": "vocabulary", "embedding_dim": "units",
    "reduction": "agg",
}
INFERRED = ("in_features", "in_channels", "input_size", "input_shape", "in_dim")    # what layers of other libraries are told


class Spec(BaseModel):
    """A frozen, closed description. Fields may be given by position, in the order they are written, except those in `named_only`.

    Unknown fields and non-finite numbers are refused: at a prompt with a SpecError, inside a larger description with pydantic's ValidationError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, protected_namespaces=())
    aliases: ClassVar[tuple[str, ...]] = ()
    named_only: ClassVar[tuple[str, ...]] = ("kind", "name")

    def __init__(self, *args: Any, **kwargs: Any):
        names = [name for name in type(self).model_fields if name not in self.named_only]
        if len(args) > len(names):
            takes = f"at most {len(names)} positional arguments ({', '.join(names)})" if names else "no positional arguments"
            advice = type(self).advice(args)
            raise TypeError(f"{type(self).__name__} takes {takes}, found {len(args)}{advice and f'; {advice}'}")
        for name, value in zip(names, args, strict=False):
            if name in kwargs:
                raise TypeError(f"{type(self).__name__} got {name!r} twice, by position and by name")
            kwargs[name] = value
        kwargs = {name: _plain(value) for name, value in kwargs.items()}
        try:
            super().__init__(**kwargs)
        except ValidationError as error:
            if _caller() in ("pydantic", "engine"):     # they put it together with others, and know where in a whole description this one stands
                raise
            found = problems(error, {**({"kind": self.kind_name()} if "kind" in type(self).model_fields else {}), **kwargs})
            if args and (advice := type(self).advice(args)):
                found[-1] = replace(found[-1], detail=f"{found[-1].detail}; {advice}")
            raise SpecError(found) from None

    @classmethod
    def advice(cls, args: Sequence[Any]) -> str:
        """What to say of arguments that were given by position and do not fit, where they look like those of another library."""
        return ""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema takes what is taken: a kind by each of its names, a field by each of its spellings, but not by two at once."""
        found = handler(core)
        whole = handler.resolve_ref_schema(found)
        if cls.aliases:
            whole["properties"]["kind"] = {"enum": [cls.kind_name(), *cls.aliases], "default": cls.kind_name(), "type": "string"}
        for field in cls.model_fields.values():
            if isinstance(field.validation_alias, AliasChoices):
                _spell(whole, [str(name) for name in field.validation_alias.choices], field.is_required())
        return found

    @classmethod
    def kind_name(cls) -> str:
        return cls.model_fields["kind"].default

    @classmethod
    def renamed(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fields that came under one of the kind's aliases, as fields of the kind that was meant."""
        return {**given, "kind": cls.kind_name()}

    @classmethod
    def sentence(cls) -> str:
        """The first sentence of the class's docstring."""
        return (cls.__doc__ or "").strip().split("\n")[0]


def _spell(schema: dict[str, Any], names: list[str], required: bool) -> None:
    """Let one of several spellings of a field be there, the first of which the schema knows."""
    schema["properties"] |= dict.fromkeys(names, schema["properties"][names[0]])
    if required:
        schema["required"] = [name for name in schema["required"] if name != names[0]]
        schema["oneOf"] = [{"required": [name]} for name in names]
    else:
        schema["not"] = {"required": names}


def _plain(value: Any) -> Any:
    """numpy's numbers, alone or in a list, as Python's: `nn.Dense(y.max() + 1)`."""
    if isinstance(value, np.generic):
        return value.item()
    several = isinstance(value, list | tuple) and any(isinstance(one, np.generic) for one in value)
    return [_plain(one) for one in value] if several else value


def _caller() -> str:
    """The package of whoever makes the spec that is being made here."""
    frame, package = sys._getframe(2), ""
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package == "pydantic" or frame.f_code.co_name != "__init__":
            break
        frame = frame.f_back        # a class that is a spec itself
    return package


Member = TypeVar("Member", bound=type[Any])
Known = TypeVar("Known", bound=Spec)


def described(cls: type[Known], fields: Mapping[str, Any]) -> Known:
    """A spec of fields that a person gave to a function of ours; refused as if they had made the spec themselves, with a SpecError."""
    try:
        return cls(**fields)
    except ValidationError as error:
        raise SpecError(problems(error, {"kind": cls.kind_name(), **fields})) from None


class Family:
    """A registry of specs told apart by `kind`: `layers = Family("layer")`, then `@layers.add` on each class.

    `family.type` is what a pydantic field is annotated with, once all members are known (see `union`).
    """

    def __init__(self, name: str, foreign: Mapping[str, str] | None = None):
        self.name = name
        self.members: dict[str, type[Spec]] = {}
        self.foreign = dict(foreign or {})

    def add(self, cls: Member) -> Member:
        kind = cls.kind_name()
        if kind in self.members:
            raise ValueError(f"{self.name} {kind!r} is defined twice")
        self.members[kind] = cls
        return cls

    def __iter__(self) -> Iterator[type[Any]]:
        return iter(self.members.values())

    def find(self, kind: str) -> type[Any] | None:
        """The class called `kind`, by its name or one of its aliases."""
        if kind in self.members:
            return self.members[kind]
        return next((cls for cls in self.members.values() if kind in cls.aliases), None)

    def names(self) -> list[str]:
        return [*self.members, *(alias for cls in self.members.values() for alias in cls.aliases)]

    def suggest(self, kind: str) -> str | None:
        near = self.foreign.get(kind) or nearest(kind, self.names())
        found = self.find(near) if near else None
        return found.kind_name() if found else near

    def unknown(self, module: str, name: str) -> AttributeError:
        """What is said of a name that a module of the family's has not: another library may have it, or it is written otherwise here."""
        near, own = self.suggest(name) or self.suggest(name.lower()) or "", vars(sys.modules[module])
        meant = near if callable(own.get(near)) else self.members[near].__name__ if near in self.members else ""
        return AttributeError(f"module {module!r} has no attribute {name!r}{f' (did you mean {meant}?)' if meant else ''}")

    def normalise(self, value: Any) -> Any:
        """A bare string becomes `{"kind": string}`; an alias becomes the kind it stands for. Anything else is left to validation."""
        if isinstance(value, str):
            value = {"kind": value}
        if isinstance(value, Mapping) and isinstance(value.get("kind"), str):
            found = self.find(value["kind"])
            if found is None:
                raise PydanticCustomError("unknown_kind", "no {family} is called '{kind}'",
                                          {"family": self.name, "kind": value["kind"], "suggestion": self.suggest(value["kind"])})
            return found.renamed(value)
        if isinstance(value, Mapping):
            raise PydanticCustomError("missing_kind", "{family} needs a 'kind'", {"family": self.name})
        if _kind_of(value) is None:
            about = "this is no {family}: one is an object with a 'kind', or the name of a kind{found}"
            found = f", found {shown(value)}" if callable(value) else ""
            raise PydanticCustomError("invalid_value", about, {"family": self.name, "found": found})
        return value

    def union(self) -> Any:
        """The annotated union of all members, for pydantic fields."""
        tagged = tuple(Annotated[cls, Tag(kind)] for kind, cls in self.members.items())
        told: Any = Annotated[Union[tagged], Discriminator(_kind_of)]  # type: ignore[valid-type]  # noqa: UP007
        bare = [cls for cls in self if not any(item.is_required() for item in cls.model_fields.values())]
        return Annotated[told, BeforeValidator(self.normalise), _Alone(tuple(name for cls in bare for name in (cls.kind_name(), *cls.aliases)))]


@dataclass(frozen=True)
class _Alone:
    """A name may stand for a kind that needs no more, says the schema. A type that said so would be made twice, and take a megabyte."""

    names: tuple[str, ...]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(core), {"enum": list(self.names), "type": "string"}]} if self.names else handler(core)


def _kind_of(value: Any) -> str | None:
    return value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)


def problems(error: ValidationError, raw: Any) -> list[Problem]:
    """Every problem of a failed validation, as JSON Pointers into `raw` with the nearest valid name."""
    whole = [name for cls in _subclasses(Spec) if cls.__name__ == error.title for name in cls.model_fields]
    return [_problem(item, raw, whole) for item in error.errors(include_url=False)]


def _problem(item: Any, raw: Any, whole: list[str]) -> Problem:
    pointer, parent = _pointer(item["loc"], raw)
    context, kind, last = item.get("ctx") or {}, item["type"], item["loc"][-1] if item["loc"] else ""
    if kind == "unknown_kind" and "family" in context:
        where = pointer + "/kind" if isinstance(_at(pointer, raw), Mapping) else pointer
        return Problem(where, kind, item["msg"], context.get("suggestion"))
    if kind == "extra_forbidden":
        if last in INFERRED:
            return Problem(pointer, "unknown_field", f"there is no field {last!r} here: sizes of inputs are inferred")
        fields = context.get("fields") or (len(item["loc"]) == 1 and whole) or _fields(error_title=parent)
        return Problem(pointer, "unknown_field", f"there is no field {last!r} here", FOREIGN_NAMES.get(str(last)) or nearest(str(last), fields))
    if kind == "missing":
        return Problem(pointer, "missing_field", f"the field {last!r} is required")
    code = context.get("code") or {"finite_number": "not_finite", "missing_kind": "missing_kind"}.get(kind) or \
        ("out_of_range" if kind.startswith(("greater_than", "less_than", "too_")) else "invalid_value")
    found = item.get("input")
    shown = f", found {found!r}" if isinstance(found, str | int | float | bool | type(None)) and kind != "value_error" else ""
    return Problem(pointer, code, _lower(item["msg"].removeprefix("Value error, ")) + shown, context.get("suggestion"))


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _fields(error_title: Any) -> list[str]:
    """The field names of the family member that the raw object names, for suggestions."""
    kind = error_title.get("kind") if isinstance(error_title, Mapping) else None
    pool = [cls for cls in _subclasses(Spec) if "kind" in cls.model_fields] if kind else list(_subclasses(Spec))
    named = [cls for cls in pool if not kind or cls.kind_name() == kind or kind in cls.aliases]
    return [name for cls in named for name in cls.model_fields]


def _subclasses(cls: type[Spec]) -> Iterator[type[Spec]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _pointer(loc: tuple[Any, ...], raw: Any) -> tuple[str, Any]:
    """The JSON Pointer of a pydantic location, without the union tags that pydantic puts in, and the object the last step is in.

    A step is a tag when the value here has no such key although a later step, or nothing, follows: objects are told by their `kind`, bare
    strings by what they say. It is a tag too when the value here has such a key, but with nothing in it, and the next key besides: momentum has a
    field `momentum`.
    """
    path, here, parent = [], raw, raw
    for position, step in enumerate(loc):
        rest = loc[position + 1:]
        if isinstance(here, Mapping) and isinstance(step, str):
            if step in here and not (rest and rest[0] in here and not isinstance(here[step], Mapping | list | tuple)):
                parent, here = here, here[step]
                path.append(step)
            elif not rest and not _is_tag(step, here):
                parent = here
                path.append(step)
        elif isinstance(here, list | tuple) and isinstance(step, int) and step < len(here):
            parent, here = here, here[step]
            path.append(str(step))
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path), parent


def _is_tag(step: str, here: Any) -> bool:
    if isinstance(here, Mapping) and isinstance(here.get("kind"), str):
        return here["kind"] == step
    return "[" in step or "(" in step or step in ("str", "int", "float", "bool", "dict", "list", "none")


def _at(pointer: str, raw: Any) -> Any:
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        raw = raw[int(step)] if isinstance(raw, list | tuple) else raw.get(step) if isinstance(raw, Mapping) else None
    return raw


__all__ = ["FOREIGN_NAMES", "Family", "Field", "Spec", "described", "problems"]
