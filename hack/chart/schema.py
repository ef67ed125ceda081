"""values.schema.json of the chart: what is wrong in `config` is told by Helm as check-config tells it.

python -m hack.chart.schema writes it. The part of `config` comes from the controller's own types, so that neither can
know a key that the other doesn't; the rest is closed too, from the values' own defaults and a few types.
"""

import json
from collections.abc import Mapping
from typing import Any

import yaml
from msgspec import inspect

from controller.config import Config
from controller.providers import TYPES
from hack.chart.helm import CHART

FILE = CHART / "values.schema.json"
Schema = dict[str, Any]

_DURATION: Schema = {"type": "string", "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "minLength": 2}
_OBJECT: Schema = {"type": "object"}
_LIST_OF_OBJECTS: Schema = {"type": "array", "items": _OBJECT}
_TEXTS: Schema = {"type": "array", "items": {"type": "string"}}
_QUANTITIES: Schema = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
_LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_NAME: Schema = {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"}
_DOTTED_NAME: Schema = {"type": "string", "pattern": "^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$"}

SPECIAL: Mapping[str, Schema] = {
    "global": _OBJECT,
    "nameOverride": _NAME,
    "fullnameOverride": _NAME,
    "namespaceOverride": _NAME,
    **{f"metrics.{each}.namespace": _NAME for each in ("serviceMonitor", "podMonitor", "rules", "dashboard")},
    "serviceAccount.name": _DOTTED_NAME,
    "priorityClassName": _DOTTED_NAME,
    "caBundle.configMap": _DOTTED_NAME,
    "caBundle.key": {"type": "string", "pattern": "^[-._a-zA-Z0-9]+$"},
    "commonLabels": _LABELS,
    "commonAnnotations": _LABELS,
    "podLabels": _LABELS,
    "podAnnotations": _LABELS,
    "nodeSelector": _LABELS,
    "serviceAccount.annotations": _LABELS,
    "serviceAccount.labels": _LABELS,
    **{f"metrics.{each}.labels": _LABELS for each in ("serviceMonitor", "podMonitor", "rules")},
    **{f"metrics.{each}.annotations": _LABELS for each in ("serviceMonitor", "podMonitor", "rules", "dashboard")},
    "metrics.rules.overrides": {"type": "object", "additionalProperties": _OBJECT},
    "metrics.rules.extra": _LIST_OF_OBJECTS,
    "affinity": _OBJECT,
    "dnsConfig": _OBJECT,
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"requests": _QUANTITIES, "limits": _QUANTITIES, "claims": _LIST_OF_OBJECTS},
    },
    "imagePullSecrets": _LIST_OF_OBJECTS,
    "topologySpreadConstraints": _LIST_OF_OBJECTS,
    "tolerations": _LIST_OF_OBJECTS,
    "hostAliases": _LIST_OF_OBJECTS,
    "extraEnv": _LIST_OF_OBJECTS,
    "extraVolumes": _LIST_OF_OBJECTS,
    "extraVolumeMounts": _LIST_OF_OBJECTS,
    "networkPolicy.ingress.from": _LIST_OF_OBJECTS,
    "networkPolicy.egress.extra": _LIST_OF_OBJECTS,
    "extraArgs": _TEXTS,
    "policies.audiences": {**_TEXTS, "items": {"type": "string", "pattern": "^[^'\\\\]+$"}},
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
    "replicas": {"type": "integer", "minimum": 0},
    "metrics.port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "podDisruptionBudget.maxUnavailable": {
        "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[1-9][0-9]*%$"}, {"type": "null"}]
    },
    "terminationGracePeriodSeconds": {"type": "integer", "minimum": 15},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "rbac.aggregateUse": {"enum": ["none", "admin"]},
    "metrics.crdCheck": {"enum": ["none", "skip", "fail"]},
    "iAccept": {"enum": ["", "unguarded"]},
    "credentials": {
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["provider", "existingSecret", "keys"],
            "properties": {
                "provider": {"type": "string"},
                "existingSecret": {"type": "string", "minLength": 1},
                "keys": {**_LABELS, "minProperties": 1},
            },
        },
    },
}
"""By path, what a default alone doesn't say."""


def schema() -> Schema:
    """The whole, as JSON Schema draft 7, which Helm reads."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    whole = _closed(values, "")
    whole["properties"]["config"] = config_schema()
    return {"$schema": "http://json-schema.org/draft-07/schema#", **whole}


def config_schema() -> Schema:
    """Of the controller's own file."""
    whole = _of(inspect.type_info(Config))
    providers = {name: _of(inspect.type_info(type_.SETTINGS)) for name, type_ in sorted(TYPES.items())}
    whole["properties"]["providers"] = {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": list(providers)}},
            "allOf": [
                {"if": {"properties": {"type": {"const": name}}}, "then": each} for name, each in providers.items()
            ],
        },
    }
    return whole


def _closed(value: Any, path: str) -> Schema:
    if path in SPECIAL:
        return SPECIAL[path]
    match value:
        case dict():
            inner = {key: _closed(each, f"{path}.{key}" if path else key) for key, each in value.items()}
            return {"type": "object", "additionalProperties": False, "properties": inner}
        case bool():
            return {"type": "boolean"}
        case str():
            return {"type": "string"}
    raise TypeError(f"{path} needs a schema of its own")


_PLAIN: Mapping[type[inspect.Type], Schema] = {
    inspect.BoolType: {"type": "boolean"},
    inspect.IntType: {"type": "integer"},
    inspect.FloatType: {"type": "number"},
    inspect.StrType: {"type": "string"},
    inspect.NoneType: {"type": "null"},
    inspect.CustomType: _DURATION,
    inspect.AnyType: {},
}
"""The configuration has one type of its own, Seconds."""


def _of(info: inspect.Type) -> Schema:
    """The schema of a type of the configuration. Limits of numbers and texts are left to check-config."""
    match info:
        case inspect.Metadata(type=inner):
            return _of(inner)
        case inspect.StructType():
            return _struct(info)
        case inspect.UnionType(types=types):
            structs = [each for each in types if isinstance(each, inspect.StructType)]
            return _tagged(structs) if len(structs) > 1 else {"anyOf": [_of(each) for each in types]}
        case inspect.LiteralType(values=values):
            return {"enum": list(values)}
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return {"type": "array", "items": _of(item)}
        case inspect.DictType(value_type=value):
            return {"type": "object", "additionalProperties": _of(value)}
    return _PLAIN[type(info)]


def _struct(info: inspect.StructType) -> Schema:
    properties = {field.encode_name: _of(field.type) for field in info.fields}
    if (tag := info.cls.__struct_config__.tag) is not None:
        properties[str(info.cls.__struct_config__.tag_field)] = {"const": tag}
    required = [field.encode_name for field in info.fields if field.required]
    closed: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**closed, "required": required} if required else closed


def _tagged(structs: list[inspect.StructType]) -> Schema:
    """One of several structs, by a key that names it; the first is the default."""
    configs = [struct.cls.__struct_config__ for struct in structs]
    key, tags = str(configs[0].tag_field), [config.tag for config in configs]
    default, *others = zip(tags, map(_of, structs), strict=True)
    chosen = [{"if": {"properties": {key: {"const": tag}}, "required": [key]}, "then": each} for tag, each in others]
    given_others = {"properties": {key: {"enum": [tag for tag, _ in others]}}, "required": [key]}
    return {
        "type": "object",
        "properties": {key: {"enum": tags}},
        "allOf": [{"if": given_others, "else": default[1]}, *chosen],
    }


def main() -> None:
    """Write the file."""
    FILE.write_text(json.dumps(schema(), sort_keys=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
