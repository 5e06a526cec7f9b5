"""State `Ensure base weights`: the checkpoint is whole before an instance is started for it."""

from __future__ import annotations

import os
from typing import Any

import aws
from heartbeat import checkpoint, layout
from heartbeat.failures import BaseModelUnavailable

_INDEX = "model.safetensors.index.json"


def handler(_event: aws.Event, _context: object) -> dict[str, Any]:
    folder = layout.base_model_prefix(os.environ["BASE_MODEL"], os.environ["WEIGHT_FORMAT"])
    files = {key.removeprefix(folder): size for key, size in aws.list_objects(folder).items()}
    where = layout.uri(aws.artifact_bucket(), folder)
    if not files:
        raise BaseModelUnavailable(f"there is no checkpoint at {where}")
    index = aws.read_json(folder + _INDEX) if _INDEX in files else None
    missing = checkpoint.missing_files(files, index)
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise BaseModelUnavailable(f"the checkpoint at {where} lacks {', '.join(missing[:5])}{more}")
    return {"uri": where, "bytes": sum(files.values()), "num_files": len(files)}
