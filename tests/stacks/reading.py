"""Reads synthesised templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Template = dict[str, Any]
Statement = dict[str, Any]


def resources(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    """Resources of one type, by logical id."""
    return {key: each for key, each in template["Resources"].items() if each["Type"] == kind}


def only(template: Template, kind: str) -> dict[str, Any]:
    """Properties of the one resource of its type."""
    (found,) = resources(template, kind).values()
    properties: dict[str, Any] = found["Properties"]
    return properties


def listed(value: Any) -> list[Any]:
    """CloudFormation and IAM write a list of one as its element."""
    return value if isinstance(value, list) else [value]


def role_statements(template: Template) -> Iterator[tuple[str, Statement]]:
    """Each statement of the policies that roles carry, with the logical id of role or policy."""
    for key, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        documents = [properties["PolicyDocument"]] if resource["Type"] == "AWS::IAM::Policy" else []
        if resource["Type"] == "AWS::IAM::Role":
            documents += [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        for document in documents:
            for statement in listed(document["Statement"]):
                yield key, statement


def text(value: Any) -> str:
    """A property as one line: joins joined, references as `<Name>` or `<Name.Attribute>`."""
    match value:
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(text(part) for part in parts)
        case {"Ref": name}:
            return f"<{name}>"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"<{name}.{attribute}>"
        case {"Fn::Sub": pattern}:
            return str(pattern).replace("${", "<").replace("}", ">")
        case {"Fn::GetStackOutput": output}:
            return f"<{output['StackName']}:{output['OutputName']}>"
        case _:
            return str(value)


def strings(value: Any) -> Iterator[str]:
    """Every text in a template, keys of objects left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
