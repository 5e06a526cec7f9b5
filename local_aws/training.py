"""Training jobs: the control plane, and the life of one job from Starting to its end."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from local_aws.containers import signal_group
from local_aws.errors import ApiError, invalid
from local_aws.iam import SAGEMAKER
from local_aws.registry import Request, SageMakerAccount, list_page, name_in, now
from local_aws.training_run import JobError, TrainingRun

_SUMMARY = (
    "TrainingJobName",
    "TrainingJobArn",
    "CreationTime",
    "TrainingEndTime",
    "LastModifiedTime",
    "TrainingJobStatus",
    "SecondaryStatus",
)
_LATEST_MESSAGE = {
    "Starting": "Starting the training job",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Stopping": "Stopping the training job",
    "Uploading": "Uploading generated training model",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
}
_POLL_SECONDS = 0.05


@dataclass
class TrainingJob:
    """A job and its description as DescribeTrainingJob answers it."""

    request: Request
    description: dict[str, Any]
    stop: threading.Event = field(default_factory=threading.Event)
    process: subprocess.Popen[Any] | None = None

    @property
    def status(self) -> str:
        return str(self.description["TrainingJobStatus"])


class TrainingJobs:
    """CreateTrainingJob and its family."""

    def __init__(self, account: SageMakerAccount) -> None:
        self._account = account
        self._jobs: dict[str, TrainingJob] = {}

    def create(self, request: Request) -> dict[str, Any]:
        name = name_in(request, "TrainingJobName")
        arn = self._account.arn("training-job", name)
        instance_type = request["ResourceConfig"].get("InstanceType", "")
        self._check(name, arn, request, instance_type)
        job = TrainingJob(request=request, description=_first_description(request, arn))
        self._jobs[name] = job
        self._account.add_tags(arn, request.get("Tags"))
        self._move(job, "Starting")
        threading.Thread(target=self._live, args=(job,), name=f"job {name}", daemon=True).start()
        return {"TrainingJobArn": arn}

    def _check(self, name: str, arn: str, request: Request, instance_type: str) -> None:
        if name in self._jobs:
            raise ApiError(
                "ResourceInUse",
                "Training job names must be unique within an AWS account and region, and a training job with "
                f"this name already exists ({arn})",
            )
        if instance_type in self._account.faults.now.quota:
            raise ApiError(
                "ResourceLimitExceeded",
                f"The account-level service limit '{instance_type} for training job usage' is 0 Instances, with "
                "current utilization of 0 Instances and a request delta of 1 Instances. Please use AWS Service "
                "Quotas to request an increase for this quota. If AWS Service Quotas is not available, contact "
                "AWS support to request an increase for this quota.",
            )
        limits = request.get("StoppingCondition", {})
        wait = limits.get("MaxWaitTimeInSeconds")
        if request.get("EnableManagedSpotTraining"):
            if wait is None or wait < limits.get("MaxRuntimeInSeconds", 86400):
                raise invalid(
                    "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to "
                    "MaxRuntimeInSeconds"
                )
        elif wait is not None:
            raise invalid("MaxWaitTimeInSeconds can be set only when EnableManagedSpotTraining is true")
        image = request["AlgorithmSpecification"].get("TrainingImage")
        if not image:
            raise invalid("The embedded AWS trains with AlgorithmSpecification.TrainingImage only")
        channels = [channel["ChannelName"] for channel in request.get("InputDataConfig") or []]
        if len(set(channels)) < len(channels):
            raise invalid(f"Channel names must be unique: {', '.join(channels)}")
        self._account.roles.assume(request["RoleArn"], SAGEMAKER)

    def _get(self, request: Request) -> TrainingJob:
        job = self._jobs.get(request["TrainingJobName"])
        if job is None:
            raise invalid("Requested resource not found.")
        return job

    def describe(self, request: Request) -> dict[str, Any]:
        return dict(self._get(request).description)

    def descriptions(self) -> list[dict[str, Any]]:
        return [dict(job.description) for job in self._jobs.values()]

    def stop(self, request: Request) -> None:
        job = self._get(request)
        if job.status == "InProgress":
            job.description["TrainingJobStatus"] = "Stopping"
            job.stop.set()
        elif job.status != "Stopping":
            raise invalid(f"The request was rejected because the training job is in status {job.status}.")

    def list(self, request: Request) -> dict[str, Any]:
        page, more = list_page(
            self.descriptions(), request, name="TrainingJobName", members=_SUMMARY, status="TrainingJobStatus"
        )
        return {"TrainingJobSummaries": page, **more}

    def _move(self, job: TrainingJob, status: str) -> None:
        """Enter a secondary status, ending the one before."""
        with self._account.lock:
            moment = now()
            transitions = job.description["SecondaryStatusTransitions"]
            if transitions:
                transitions[-1].setdefault("EndTime", moment)
            transitions.append({"Status": status, "StartTime": moment, "StatusMessage": _LATEST_MESSAGE[status]})
            job.description["SecondaryStatus"] = status
            job.description["LastModifiedTime"] = moment

    def _end(self, job: TrainingJob, status: str, secondary: str, reason: str | None = None) -> None:
        with self._account.lock:
            self._move(job, secondary)
            description = job.description
            description["SecondaryStatusTransitions"][-1]["EndTime"] = now()
            if reason:
                description["FailureReason"] = reason[:1024]
            description["TrainingEndTime"] = now()
            if "TrainingStartTime" in description:
                seconds = max(1, round(description["TrainingEndTime"] - description["TrainingStartTime"]))
                description["TrainingTimeInSeconds"] = description["BillableTimeInSeconds"] = seconds
            description["TrainingJobStatus"] = status

    def _live(self, job: TrainingJob) -> None:
        """The thread of one job."""
        folder = self._account.settings.root / "jobs" / job.request["TrainingJobName"]
        try:
            self._run(job, folder)
        except JobError as failure:
            self._end(job, "Failed", "Failed", str(failure))
        except (ApiError, ClientError) as error:
            self._end(job, "Failed", "Failed", f"ClientError: {_message(error)}")
        except Exception as error:
            self._end(job, "Failed", "Failed", f"InternalServerError: {type(error).__name__}: {error}")
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, job: TrainingJob, folder: Path) -> None:
        if job.request["ResourceConfig"].get("InstanceType", "") in self._account.faults.now.capacity:
            raise JobError(
                "CapacityError: Unable to provision requested ML compute capacity. Please retry using a "
                "different ML instance type."
            )
        run = TrainingRun(self._account, job.request, job.description, folder)
        self._move(job, "Downloading")
        run.prepare()
        if job.stop.is_set():
            self._end(job, "Stopped", "Stopped")
            return
        self._move(job, "Training")
        job.description["TrainingStartTime"] = now()
        job.process = run.start()
        stopped_by = self._wait(job, job.process)
        code = job.process.returncode
        run.finish_logs()
        if code != 0 and stopped_by is None:
            run.upload(model=False)
            raise JobError(f"AlgorithmError: {run.failure_text()}, exit code: {_exit_code(code)}")
        self._move(job, "Uploading")
        run.upload(model=True)
        self._end(job, "Stopped" if stopped_by else "Completed", stopped_by or "Completed")

    def _wait(self, job: TrainingJob, process: subprocess.Popen[Any]) -> str | None:
        """Wait for the program; the secondary status of a stop, or None when it ended by itself."""
        faults = self._account.faults.now
        limit = job.request["StoppingCondition"].get("MaxRuntimeInSeconds", 86400) * faults.runtime_scale
        started, stopped_by, kill_at = time.monotonic(), None, float("inf")
        while process.poll() is None:
            moment = time.monotonic()
            if stopped_by is None:
                if job.stop.is_set():
                    stopped_by = "Stopped"
                elif moment - started > limit:
                    stopped_by = "MaxRuntimeExceeded"
                if stopped_by:
                    self._move(job, "Stopping")
                    signal_group(process, signal.SIGTERM)
                    kill_at = moment + self._account.faults.now.term_grace_seconds
            elif moment > kill_at:
                signal_group(process, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        signal_group(process, signal.SIGKILL)  # what the program has left behind
        return stopped_by


def _first_description(request: Request, arn: str) -> dict[str, Any]:
    kept = {key: value for key, value in request.items() if key != "Tags"}
    return {
        **kept,
        "TrainingJobArn": arn,
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Starting",
        "CreationTime": now(),
        "LastModifiedTime": now(),
        "SecondaryStatusTransitions": [],
        "EnableNetworkIsolation": request.get("EnableNetworkIsolation", False),
        "EnableInterContainerTrafficEncryption": request.get("EnableInterContainerTrafficEncryption", False),
        "EnableManagedSpotTraining": request.get("EnableManagedSpotTraining", False),
    }


def _exit_code(code: int) -> int:
    """A shell's number for a program that a signal ended."""
    return 128 - code if code < 0 else code


def _message(error: Exception) -> str:
    if isinstance(error, ApiError):
        return error.message
    return re.sub(r"^An error occurred \((\w+)\) when calling the (\w+) operation: ", r"\1 in \2: ", str(error))
