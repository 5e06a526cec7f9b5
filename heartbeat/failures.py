"""From what AWS says to what a person does next."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Name(StrEnum):
    """Error of the execution's Fail state."""

    INPUT_INVALID = "InputInvalid"
    DATASET_INVALID = "DatasetInvalid"
    PLAN_REFUSED = "PlanRefused"
    PERMISSION_MISSING = "PermissionMissing"
    IMAGE_BUILD_FAILED = "ImageBuildFailed"
    BASE_MODEL_UNAVAILABLE = "BaseModelUnavailable"
    NO_CAPACITY = "NoCapacity"
    TRAINING_FAILED = "TrainingFailed"
    QUALITY_GATE_FAILED = "QualityGateFailed"
    NOT_APPROVED = "NotApproved"
    ENDPOINT_BUSY = "EndpointBusy"
    ENDPOINT_FAILED = "EndpointFailed"
    ACCEPTANCE_FAILED = "AcceptanceFailed"
    ROLLED_BACK = "RolledBack"


class RunError(Exception):
    """Base of the errors that a handler raises on purpose; the class's name is the error's name in the history."""


class InputInvalid(RunError):  # noqa: N818 (the names are the state machine's contract)
    pass


class DatasetInvalid(RunError):  # noqa: N818
    pass


class PlanRefused(RunError):  # noqa: N818
    pass


class BaseModelUnavailable(RunError):  # noqa: N818
    pass


class TrainingFailed(RunError):  # noqa: N818
    pass


class QualityGateFailed(RunError):  # noqa: N818
    pass


class EndpointFailed(RunError):  # noqa: N818
    pass


class AcceptanceFailed(RunError):  # noqa: N818
    pass


class RolledBack(RunError):  # noqa: N818
    pass


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a run ended and what to do: Error and Cause of the Fail state."""

    error: Name
    what: str
    advice: str
    log: str | None = None

    @property
    def cause(self) -> str:
        """At most 2,000 characters, of the 32,768 that a Fail state may hold: it is read in a console."""
        parts = [_shorten(self.what, 1400), f"What to do: {self.advice}"]
        if self.log:
            parts.append(f"Log: {self.log}")
        return "\n".join(parts)


_STEP_NAMES: Mapping[str, Name] = {
    "Check dataset": Name.DATASET_INVALID,
    "Plan": Name.PLAN_REFUSED,
    "Ensure image": Name.IMAGE_BUILD_FAILED,
    "Build image": Name.IMAGE_BUILD_FAILED,
    "Ensure base weights": Name.BASE_MODEL_UNAVAILABLE,
    "Bring base weights": Name.BASE_MODEL_UNAVAILABLE,
    "Plan weights": Name.BASE_MODEL_UNAVAILABLE,
    "Bring weights": Name.BASE_MODEL_UNAVAILABLE,
    "Read result": Name.BASE_MODEL_UNAVAILABLE,
    "Choose instance": Name.NO_CAPACITY,
    "Train": Name.TRAINING_FAILED,
    "Read training result": Name.TRAINING_FAILED,
    "Quality gate": Name.QUALITY_GATE_FAILED,
    "Wait for approval": Name.NOT_APPROVED,
    "Acceptance check": Name.ACCEPTANCE_FAILED,
}
"""The error that a step's failure means when nothing more exact is known; the rest belong to the endpoint."""

_ADVICE: Mapping[Name, str] = {
    Name.INPUT_INVALID: "correct the execution's input and start again; {} runs with the defaults.",
    Name.DATASET_INVALID: "correct the lines named above (`python -m heartbeat check FILE` shows all of them),"
    " upload the file and start again.",
    Name.PLAN_REFUSED: "apply one of the changes named above, in the input or in cdk.json, and start again.",
    Name.PERMISSION_MISSING: "add the action to the role in stacks/permissions.py (or to the bucket's or key's policy,"
    " where the resource is not the app's) and deploy again.",
    Name.IMAGE_BUILD_FAILED: "read the CodeBuild log; after a fix in training_code/, deploy and start again.",
    Name.BASE_MODEL_UNAVAILABLE: "let them be brought by a Hugging Face token whose account has accepted the model's"
    " licence (`python -m heartbeat base-model token`), upload a checkpoint (`python -m heartbeat base-model upload"
    " FOLDER`), or point at one in S3 (base_model in the input); then start again: what is there stays.",
    Name.NO_CAPACITY: "try later, name other instance_types in the input (`python -m heartbeat plan` lists what fits),"
    " or ask for the quota in Service Quotas (Amazon SageMaker, '<instance> for training job usage').",
    Name.TRAINING_FAILED: "correct what the trainer names and start again; finished steps are in the checkpoints.",
    Name.QUALITY_GATE_FAILED: "look at the report's held-out rows; more or better data, more steps or another"
    " learning rate are the usual cures. The adapter is kept, nothing was deployed.",
    Name.NOT_APPROVED: "nothing was deployed; the adapter is kept. Start again with approve=true to be asked again.",
    Name.ENDPOINT_BUSY: "start again when that run has ended, or name another endpoint_name in the input; the adapter"
    " that passed the gate is kept in the run's folder.",
    Name.ENDPOINT_FAILED: "read the endpoint's log; the adapter that passed the gate is kept in the run's folder.",
    Name.ACCEPTANCE_FAILED: "compare the answers in the report: an adapter whose names the server does not know is"
    " ignored without a word, and other weights than in training answer otherwise.",
    Name.ROLLED_BACK: "the endpoint serves its previous model again; the report and the endpoint's log show what the"
    " new one answered.",
}


def advice(name: Name) -> str:
    """What a person does next after a failure of this name."""
    return _ADVICE[name]


def read_cause(cause: str | None) -> dict[str, Any]:
    """The JSON object in a Cause: a job's description, a Lambda's error; {} for plain text."""
    try:
        found = json.loads(cause or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


_CAPACITY = re.compile(r"CapacityError|InsufficientInstanceCapacity|Unable to provision requested ML compute")
_QUOTA = re.compile(r"ResourceLimitExceeded|account-level service limit|exceeded the account")


def is_capacity(error: str, cause: str | None) -> bool:
    """Whether the next instance of the plan may do better: no capacity for this one, or no quota.

    Capacity arrives late, as FailureReason inside the Cause of States.TaskFailed; a quota fails the call itself.
    """
    text = f"{error} {read_cause(cause).get('FailureReason') or cause or ''}"
    return bool(_CAPACITY.search(text) or _QUOTA.search(text))


def why_not(error: str, cause: str | None) -> str:
    """One line for the list of instances that were tried."""
    text = str(read_cause(cause).get("FailureReason") or cause or error)
    return "no quota" if _QUOTA.search(f"{error} {text}") else _shorten(text, 160)


_ADVICE_ON: Mapping[str, str] = {
    # Not all Regions let an endpoint have no instance (a field report, 2026-08).
    "Min instance count needs to be greater than 0": "this Region's endpoints do not scale to zero: set"
    " endpoint_scale_to_zero to false in cdk.json, or choose another Region, and deploy again; the adapter that passed"
    " the gate is kept in the run's folder.",
}
"""What a person does next where AWS says this."""


def explain(*, step: str, error: str, cause: str | None, log: str | None = None) -> Failure:
    """The Failure of a step from Step Functions' Error and Cause."""
    nested = read_cause(cause)
    if "ExecutionArn" in nested and nested.get("Cause"):
        return _of_nested(nested)
    said = _said(cause) or error
    denied = re.search(r"not authorized to perform:? ([a-z0-9-]+:[A-Za-z*]+)", said)
    if denied:
        name = Name.PERMISSION_MISSING
        said = f"{step}: {denied[1]} was denied. {said}"
    elif error in set(Name):
        name = Name(error)
    else:
        name = _STEP_NAMES.get(step, Name.ENDPOINT_FAILED)
        if error == "States.Timeout":
            said = f"{step} did not end within its time limit."
        elif error == "States.HeartbeatTimeout":
            said = f"{step} gave no sign of life within its limit."
        elif not said.startswith(step):
            said = f"{step}: {said}"
    advice = next((text for words, text in _ADVICE_ON.items() if words in said), _ADVICE[name])
    return Failure(error=name, what=said, advice=advice, log=log)


def _of_nested(execution: Mapping[str, Any]) -> Failure:
    """The Failure of a state machine that this one started, as that one has told it."""
    name = Name(execution["Error"]) if execution.get("Error") in set(Name) else Name.BASE_MODEL_UNAVAILABLE
    what, _, rest = str(execution["Cause"]).partition("\nWhat to do: ")
    _, _, log = rest.partition("\nLog: ")
    return Failure(error=name, what=what, advice=_ADVICE[name], log=log.partition("\n")[0] or None)


def _said(cause: str | None) -> str:
    """The sentence in a Cause, without the envelope that AWS puts around it."""
    found = read_cause(cause)
    for key in ("FailureReason", "errorMessage", "StatusMessage"):
        if found.get(key):
            return _trim_algorithm_error(str(found[key]))
    if "Phases" in found.get("Build", {}):
        return _build_failure(found["Build"])
    return (cause or "").strip()


def _trim_algorithm_error(reason: str) -> str:
    # SageMaker writes "AlgorithmError: <text of /opt/ml/output/failure>, exit code: 1".
    match = re.fullmatch(r"AlgorithmError: ?(.*?),? ?exit code: (\d+)", reason, re.DOTALL)
    if not match:
        return reason
    return match[1].strip() or f"the trainer ended with exit code {match[2]} and left no explanation"


def _build_failure(build: Mapping[str, Any]) -> str:
    failed = [phase for phase in build["Phases"] if phase.get("PhaseStatus") == "FAILED"]
    contexts = [context.get("Message", "") for phase in failed for context in phase.get("Contexts") or []]
    where = ", ".join(str(phase["PhaseType"]) for phase in failed) or str(build.get("BuildStatus"))
    return f"the image build failed in {where}. {' '.join(contexts)}".strip()


def _shorten(text: str, limit: int) -> str:
    text = text.strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"
