"""OCSF events held against the published schema files: names, types, required attributes, enums, constraints.

`ocsf_1_8_0.json` is what `compiled` makes of the files of OCSF 1.8.0 (github.com/ocsf/ocsf-schema, Apache-2.0), without prose.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).with_name("ocsf_1_8_0.json")
CLASSES = ("application/api_activity", "application/application_lifecycle", "iam/authentication", "iam/entity_management")
OBJECTS = (
    *("api", "actor", "user", "network_endpoint", "metadata", "product", "policy", "authorization", "managed_entity", "service"),
    *("request", "response", "resource_details", "fingerprint", "trace", "session", "object"),
)


def compiled(folder: Path) -> dict[str, Any]:
    """The classes and objects that are used here, with everything that they inherit and include."""
    words = json.loads((folder / "dictionary.json").read_text())
    categories = json.loads((folder / "categories.json").read_text())["attributes"]

    def found(kind: str, name: str) -> Path:
        return next(path for path in (folder / kind).rglob(f"{name}.json"))

    def merged(kind: str, name: str) -> dict[str, Any]:
        own = json.loads(found(kind, name.rpartition("/")[2]).read_text())
        base = merged(kind, own["extends"]) if own.get("extends") else {"attributes": {}, "constraints": {}, "category": ""}
        attributes = dict(base["attributes"])
        listed = dict(own["attributes"])
        included = listed.pop("$include", [])
        for file in [included] if isinstance(included, str) else included:
            profile = json.loads((folder / file).read_text())
            for word, said in profile["attributes"].items():
                attributes[word] = attributes.get(word, {}) | said | {"requirement": "optional", "profile": profile["name"]}
        for word, said in listed.items():
            enum = attributes.get(word, {}).get("enum", {}) | said.get("enum", {})
            attributes[word] = attributes.get(word, {}) | said | ({"enum": enum} if enum else {})
        return {
            "attributes": attributes,
            "constraints": base["constraints"] | own.get("constraints", {}),
            "category": own.get("category") or base["category"],
            "uid": own.get("uid"),
        }

    def brief(thing: dict[str, Any]) -> dict[str, Any]:
        out = {}
        for word, said in thing["attributes"].items():
            meant = words["attributes"].get(word, {}) | said
            kind = meant.get("type", "string_t")
            base = words["types"]["attributes"].get(kind, {}).get("type", kind)
            enum = sorted(words["attributes"].get(word, {}).get("enum", {}) | said.get("enum", {}))
            out[word] = {
                "type": base if kind.endswith("_t") else kind,
                "array": bool(meant.get("is_array")),
                "required": said.get("requirement") == "required",
                **({"profile": said["profile"]} if said.get("profile") else {}),
                **({"enum": enum} if enum else {}),
            }
        return {"attributes": out, "constraints": thing["constraints"]}

    classes = {}
    for name in CLASSES:
        thing = merged("events", name)
        category = categories[thing["category"]]["uid"]
        made = brief(thing)
        made["attributes"]["category_uid"]["enum"] = [str(category)]  # the base's own say nothing of a class
        made["attributes"]["class_uid"]["enum"] = [str(category * 1000 + thing["uid"])]
        classes[str(category * 1000 + thing["uid"])] = made | {"category": category}
    version = json.loads((folder / "version.json").read_text())["version"]
    return {"version": version, "classes": classes, "objects": {name: brief(merged("objects", name)) for name in OBJECTS}}


def wrong(event: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """What the schema says against an event."""
    thing = schema["classes"].get(str(event.get("class_uid")))
    if thing is None:
        return [f"class {event.get('class_uid')} is none"]
    found = list(_of(event, thing, schema, "", set(event.get("metadata", {}).get("profiles", ()))))
    if event.get("category_uid") != thing["category"] or event.get("type_uid") != event["class_uid"] * 100 + event["activity_id"]:
        found.append("category_uid or type_uid does not follow from the class")
    if event.get("metadata", {}).get("version") != schema["version"]:
        found.append("another version")
    return found


def _of(value: dict[str, Any], thing: dict[str, Any], schema: dict[str, Any], where: str, profiles: set[str]) -> Iterator[str]:
    attributes = thing["attributes"]
    for name, said in attributes.items():
        if said["required"] and said.get("profile") in {None, *profiles} and name not in value:
            yield f"{where}{name} is required"
    for rule, names in thing["constraints"].items():
        there = sum(name in value for name in names)
        if (rule == "at_least_one" and not there) or (rule == "just_one" and there != 1):
            yield f"{where}: {rule} of {', '.join(names)}"
    for name, part in value.items():
        said = attributes.get(name)
        if said is None or said.get("profile") not in {None, *profiles}:
            yield f"{where}{name} is no attribute of it (or of a profile that it does not name)"
        elif said["array"] != isinstance(part, list):
            yield f"{where}{name} is {'an array' if said['array'] else 'no array'}"
        else:
            for each in part if isinstance(part, list) else [part]:
                yield from _value(each, said, schema, f"{where}{name}", profiles)


def _value(value: Any, said: dict[str, Any], schema: dict[str, Any], where: str, profiles: set[str]) -> Iterator[str]:
    kinds = {"string_t": str, "integer_t": int, "long_t": int, "boolean_t": bool, "float_t": float, "timestamp_t": int}
    if "enum" in said and str(value) not in said["enum"]:
        yield f"{where}: {value!r} is not among its values"
    if said["type"] in kinds:
        if not isinstance(value, kinds[said["type"]]) or (isinstance(value, bool) and said["type"] != "boolean_t"):
            yield f"{where} is no {said['type']}"
    elif not isinstance(value, dict):
        yield f"{where} is no object"
    elif said["type"] not in schema["objects"]:
        yield f"{where}: nothing is known here of {said['type']}"
    elif said["type"] != "object":
        yield from _of(value, schema["objects"][said["type"]], schema, f"{where}.", profiles)


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(compiled(Path(sys.argv[1])), sort_keys=True, separators=(",", ":")) + "\n")
