"""State `Ensure base weights`: the checkpoint is whole before an instance is started for it, or it can be brought."""

from __future__ import annotations

import os
from typing import Any

import aws
import base_folder
from heartbeat.failures import BaseModelUnavailable


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    run = event["run"]
    found = base_folder.look(*base_folder.of_run(run))
    if not found.missing:
        return {"there": True, "uri": found.uri, "bytes": found.num_bytes, "num_files": found.num_files}
    if run.get("base_model") or event["brought"]:
        raise BaseModelUnavailable(found.lacks)
    if not base_folder.has_token():
        raise BaseModelUnavailable(
            f"{found.lacks}, and no Hugging Face token is stored to bring {os.environ['BASE_MODEL']} with"
        )
    return {"there": False, "uri": found.uri, "lacks": found.lacks}
