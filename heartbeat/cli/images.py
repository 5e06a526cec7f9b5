"""`images`: the serving image that is pinned, and the one that the SageMaker SDK calls current."""

from __future__ import annotations

import argparse
import ast
import json
import os
from pathlib import Path

from heartbeat.cli import screen
from heartbeat.cli.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent
# The SDK asks for an instance to tell GPU images from others; which GPU makes no difference.
_ANY_GPU_INSTANCE = "ml.p4d.24xlarge"


def run(arguments: argparse.Namespace) -> int:
    region = arguments.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    with screen.phase("SageMaker SDK") as phase:
        current = current_image(region)
        phase.detail = region
    pin = pinned_image(ROOT, arguments.environment)
    name = current.rsplit("/", 1)[-1]
    screen.say(f"  pinned    {pin}")
    screen.say(f"  current   {name}   ({current})")
    if name == pin.rsplit("/", 1)[-1]:
        screen.say("  The pin is current.")
    elif arguments.action == "refresh":
        pin_image(ROOT, arguments.environment, name)
        screen.say(f"  Pinned in cdk.json for {arguments.environment}; `make deploy` and a new run put it to use.")
    else:
        screen.say("  To pin the current one: python -m heartbeat images refresh")
    return 0


def current_image(region: str) -> str:
    """URI of the vLLM serving image as this version of the SageMaker SDK knows it. Raises UserError."""
    from sagemaker.core import image_uris

    try:
        return str(
            image_uris.retrieve(
                framework="vllm", region=region, image_scope="inference", instance_type=_ANY_GPU_INSTANCE
            )
        )
    except ValueError as error:
        raise UserError(f"--region {region}: {error}") from None


def pinned_image(root: Path, environment: str) -> str:
    """The image of cdk.json's section for `environment`, or the settings' default. Raises UserError."""
    section = _sections(root).get(environment)
    if section is None:
        raise UserError(f"--environment {environment} is not in cdk.json; there are {', '.join(_sections(root))}")
    return str(section.get("vllm_image") or _default(root))


def pin_image(root: Path, environment: str, image: str) -> None:
    """Writes the pin into cdk.json, and leaves the rest of it as it is."""
    path = root / "cdk.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["context"]["heartbeat"][environment]["vllm_image"] = image
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sections(root: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((root / "cdk.json").read_text())["context"]["heartbeat"]
    return found


def _default(root: Path) -> str:
    """The default of Settings.vllm_image, read from its source: importing it would start the CDK's Node."""
    tree = ast.parse((root / "stacks" / "settings.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "vllm_image":
            assert node.value is not None
            return str(ast.literal_eval(node.value))
    raise UserError("stacks/settings.py has no vllm_image; set heartbeat.<environment>.vllm_image in cdk.json")
