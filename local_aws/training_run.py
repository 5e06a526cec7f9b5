"""What a training job does between its statuses: input, program, logs, metrics, checkpoints, output."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from local_aws.containers import LogShipper, run_container, under_prefix, with_this_python
from local_aws.iam import SAGEMAKER
from local_aws.registry import Request, SageMakerAccount, now
from local_aws.transfer import (
    Checkpoints,
    download_prefix,
    encryption_of,
    files_in,
    upload_archive,
    upload_folder,
)

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
DEFAULT_CHECKPOINT_PATH = "/opt/ml/checkpoints"
MAX_FAILURE_CHARACTERS = 1024


class JobError(Exception):
    """The FailureReason of a job, prefixed as SageMaker prefixes it."""


class TrainingRun:
    """The container of one job; the methods are called in the order in which they are written."""

    def __init__(self, account: SageMakerAccount, request: Request, description: dict[str, Any], folder: Path) -> None:
        self._account, self._request, self._description = account, request, description
        self._folder, self._opt_ml = folder, folder / "ml"
        self._role = request["RoleArn"]
        self._s3 = account.client("s3", self._role)
        self._checkpoints: Checkpoints | None = None
        self._metrics = [
            (definition["Name"], re.compile(definition["Regex"]))
            for definition in request["AlgorithmSpecification"].get("MetricDefinitions") or []
        ]
        self._shipper: LogShipper | None = None

    def prepare(self) -> None:
        """Configuration, channels and checkpoints. Raises JobError, ApiError or ClientError."""
        image = self._request["AlgorithmSpecification"]["TrainingImage"]
        self._command = self._account.images.pull(image, self._role, SAGEMAKER)
        if entrypoint := self._request["AlgorithmSpecification"].get("ContainerEntrypoint"):
            self._command = replace(self._command, arguments=with_this_python(entrypoint))
        self._require_volume_key()
        for name in ("input/config", "input/data", "model", "output/data", "checkpoints"):
            (self._opt_ml / name).mkdir(parents=True, exist_ok=True)
        resources = self._request["ResourceConfig"]
        host = {
            "current_host": "algo-1",
            "hosts": ["algo-1"],
            "current_instance_type": resources.get("InstanceType"),
            "current_group_name": "homogeneousCluster",
            "network_interface_name": "lo",
        }
        self._write_config("hyperparameters", self._request.get("HyperParameters") or {})
        self._write_config("resourceconfig", host)
        self._write_config("inputdataconfig", self._download_channels())
        checkpoints = self._request.get("CheckpointConfig")
        if checkpoints:
            try:
                place = under_prefix(checkpoints.get("LocalPath", DEFAULT_CHECKPOINT_PATH), self._opt_ml)
            except ValueError as error:
                raise JobError(f"ClientError: CheckpointConfig: {error}") from error
            place.mkdir(parents=True, exist_ok=True)
            self._checkpoints = Checkpoints(self._s3, checkpoints["S3Uri"], place)
            self._checkpoints.restore()

    def _write_config(self, name: str, value: Any) -> None:
        (self._opt_ml / "input/config" / f"{name}.json").write_text(json.dumps(value))

    def _require_volume_key(self) -> None:
        key = self._request["ResourceConfig"].get("VolumeKmsKeyId")
        if key:
            arn = key if key.startswith("arn:") else self._account.settings.arn("kms", f"key/{key}")
            self._account.roles.require(self._role, SAGEMAKER, "kms:CreateGrant", arn)

    def _download_channels(self) -> dict[str, Any]:
        config = {}
        mode = self._request["AlgorithmSpecification"].get("TrainingInputMode", "File")
        for channel in self._request.get("InputDataConfig") or []:
            name, source = channel["ChannelName"], channel["DataSource"].get("S3DataSource")
            if source is None or channel.get("InputMode", mode) not in ("File", "FastFile"):
                raise JobError(f"ClientError: channel {name}: the embedded AWS reads S3 in File mode only")
            self._download_channel(name, source)
            config[name] = {
                "TrainingInputMode": channel.get("InputMode", mode),
                "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
                "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            }
        return config

    def _download_channel(self, name: str, source: dict[str, Any]) -> None:
        uri = source["S3Uri"]
        try:
            count = download_prefix(self._s3, uri, self._opt_ml / "input/data" / name)
        except ClientError as error:
            raise JobError(f"ClientError: Data download failed: channel {name}, {uri}: {error}") from error
        if count == 0:
            raise JobError(
                f'ClientError: Data download failed:No S3 objects found under S3 URL "{uri}" given in input data '
                "source. Please ensure that the bucket exists in the selected region "
                f"({self._account.settings.region}), that objects exist under that S3 prefix, and that the role "
                f'"{self._role}" has "s3:ListBucket" permissions on bucket "{uri.split("/")[2]}".'
            )

    def start(self) -> subprocess.Popen[Any]:
        """Start the program and follow its log. Raises JobError when the role may not write logs."""
        log = self._folder / "log.txt"
        stream = f"{self._request['TrainingJobName']}/algo-1-{int(self._description['CreationTime'])}"
        logs = self._account.client("logs", self._role)
        self._shipper = LogShipper(
            log, logs=logs, group=LOG_GROUP, stream=stream, on_line=self._observe if self._metrics else None
        )
        try:
            self._shipper.start()
        except ClientError as error:
            raise JobError(f"ClientError: Unable to write logs: {error}") from error
        if self._checkpoints:
            self._checkpoints.start()
        return run_container(self._command, opt_ml=self._opt_ml, environment=self._environment(), log=log)

    def _environment(self) -> dict[str, str]:
        settings = self._account.settings
        environment = {
            "TRAINING_JOB_NAME": self._request["TrainingJobName"],
            "TRAINING_JOB_ARN": self._description["TrainingJobArn"],
            "AWS_REGION": settings.region,
            "AWS_DEFAULT_REGION": settings.region,
        }
        if not self._request.get("EnableNetworkIsolation"):  # an isolated container has no credentials
            credentials = self._account.roles.assume(self._role, SAGEMAKER)
            environment |= {**credentials.environment(), "AWS_ENDPOINT_URL": settings.url}
        return {**environment, **(self._request.get("Environment") or {})}

    def _observe(self, line: str) -> None:
        """Turn a log line into metrics, as MetricDefinitions say."""
        for name, pattern in self._metrics:
            match = pattern.search(line)
            if match is None:
                continue
            try:
                value = float(match.group(1))
            except (ValueError, IndexError):
                continue
            final = [m for m in self._description.get("FinalMetricDataList", []) if m["MetricName"] != name]
            final.append({"MetricName": name, "Value": value, "Timestamp": now()})
            self._description["FinalMetricDataList"] = final
            dimensions = {"TrainingJobName": self._request["TrainingJobName"]}
            self._account.record_metric(LOG_GROUP, name, value, "None", dimensions)

    def finish_logs(self) -> None:
        """Send the rest of the log. Raises JobError when a call was denied."""
        if self._shipper is None:
            return
        self._shipper.finish()
        if self._shipper.denied is not None:
            raise JobError(f"ClientError: Unable to write logs: {self._shipper.denied}")

    def failure_text(self) -> str:
        path = self._opt_ml / "output/failure"
        return path.read_text(errors="replace").strip()[:MAX_FAILURE_CHARACTERS] if path.exists() else ""

    def upload(self, *, model: bool) -> None:
        """Checkpoints, output data, and with `model` the model. Raises JobError."""
        output = self._request["OutputDataConfig"]
        base = f"{output['S3OutputPath'].rstrip('/')}/{self._request['TrainingJobName']}/output"
        uncompressed = output.get("CompressionType") == "NONE"
        encryption = encryption_of(output.get("KmsKeyId"))
        folders = [("output/data", "data" if uncompressed else "output.tar.gz")]
        if model:
            folders.append(("model", "model" if uncompressed else "model.tar.gz"))
        try:
            if self._checkpoints:
                self._checkpoints.finish()
            for folder, name in folders:
                source = self._opt_ml / folder
                if not files_in(source):
                    continue
                send = upload_folder if uncompressed else upload_archive
                send(self._s3, source, f"{base}/{name}", encryption=encryption)
        except Exception as error:  # s3transfer has errors of its own around ClientError
            raise JobError(f"ClientError: Artifact upload failed:{error}") from error
        if model:
            artifacts = f"{base}/model/" if uncompressed else f"{base}/model.tar.gz"
            self._description["ModelArtifacts"] = {"S3ModelArtifacts": artifacts}
