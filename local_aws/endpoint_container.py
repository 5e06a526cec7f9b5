"""One variant of an endpoint, or one copy of an inference component: its model data, its container, its health."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from local_aws.containers import LogShipper, run_container, signal_group
from local_aws.errors import ApiError
from local_aws.iam import SAGEMAKER
from local_aws.models import Models
from local_aws.registry import SageMakerAccount
from local_aws.transfer import download_object, download_prefix, split_uri

DEFAULT_STARTUP_SECONDS = 600
"""SageMaker's wait for the first healthy /ping when the variant does not set it."""
NEVER_HEALTHY_SECONDS = 1.0
"""The wait under the fault `never_healthy`, which has no need of the real one."""
TERM_SECONDS = 2.0
_POLL_SECONDS = 0.05


class NotHealthyError(Exception):
    """The FailureReason of an endpoint or of an inference component."""


@dataclass(kw_only=True)
class Variant:
    account: SageMakerAccount
    endpoint: str
    production: dict[str, Any]
    role: str
    container: dict[str, Any]
    folder: Path
    component: str = ""
    """The inference component that this is a copy of; empty for a variant that has a model itself."""
    port: int = 0
    _process: subprocess.Popen[Any] | None = field(default=None, init=False)
    _shipper: LogShipper | None = field(default=None, init=False)

    @property
    def weight(self) -> float:
        return float(self.production.get("InitialVariantWeight", 1.0))

    @property
    def log_group(self) -> str:
        kind, name = ("InferenceComponents", self.component) if self.component else ("Endpoints", self.endpoint)
        return f"/aws/sagemaker/{kind}/{name}"

    def start(self) -> None:
        """Download, run and wait until healthy. Raises NotHealthyError, ApiError or ClientError."""
        command = self.account.images.pull(self.container["Image"], self.role, SAGEMAKER)
        opt_ml = self.folder / "ml"
        (opt_ml / "model").mkdir(parents=True)
        self._download(opt_ml)
        self.port = _free_port()
        log = self.folder / "log.txt"
        stream = f"{self.production['VariantName']}/i-{secrets.token_hex(8)}"
        logs = self.account.client("logs", self.role)
        self._shipper = LogShipper(log, logs=logs, group=self.log_group, stream=stream)
        self._shipper.start()
        if self.account.faults.now.endpoint.crash_on_start:
            raise self._not_healthy()
        self._process = run_container(command, opt_ml=opt_ml, environment=self._environment(), log=log)
        self._wait_until_healthy()

    def _download(self, opt_ml: Path) -> None:
        s3 = self.account.client("s3", self.role)
        archive = self.container.get("ModelDataUrl")
        if archive:
            self._download_archive(s3, archive, opt_ml / "model")
        source = self.container.get("ModelDataSource")
        if source:
            self._download_source(s3, source["S3DataSource"], opt_ml / "model")
        for additional in self.container.get("AdditionalModelDataSources") or []:
            place = opt_ml / "additional-model-data-sources" / additional["ChannelName"]
            self._download_source(s3, additional["S3DataSource"], place)
            self._spoil(place)

    def _spoil(self, adapter: Path) -> None:
        faults, file = self.account.faults.now.endpoint, adapter / "adapter_config.json"
        if not file.exists():
            return
        if faults.adapter_missing:
            shutil.rmtree(adapter)
            adapter.mkdir()
        elif faults.adapter_strength != 1:
            config = json.loads(file.read_text())
            file.write_text(json.dumps({**config, "lora_alpha": config["lora_alpha"] * faults.adapter_strength}))

    def _download_source(self, s3: Any, source: dict[str, Any], folder: Path) -> None:
        uri = source["S3Uri"]
        if source.get("CompressionType") == "Gzip":
            self._download_archive(s3, uri, folder)
            return
        try:
            count = download_prefix(s3, uri, folder)
        except ClientError as error:
            raise self._no_data(uri, str(error)) from error
        if count == 0:
            raise self._no_data(uri, "there is no object under this prefix")

    def _download_archive(self, s3: Any, uri: str, folder: Path) -> None:
        bucket, key = split_uri(uri)
        archive = self.folder / "model.tar.gz"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            download_object(s3, bucket, key, archive)
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        except (ClientError, tarfile.TarError) as error:
            raise self._no_data(uri, str(error)) from error

    def _no_data(self, uri: str, why: str) -> NotHealthyError:
        return NotHealthyError(
            f'Failed to download model data for container "container_1" from URL: "{uri}". Please ensure that '
            "there is an object located at the URL and that the role passed to CreateModel has permissions to "
            f"download the model. ({why})"
        )

    def _environment(self) -> dict[str, str]:
        settings = self.account.settings
        credentials = self.account.roles.assume(self.role, SAGEMAKER)
        return {
            "AWS_REGION": settings.region,
            "AWS_DEFAULT_REGION": settings.region,
            "AWS_ENDPOINT_URL": settings.url,
            **credentials.environment(),
            **(self.container.get("Environment") or {}),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "SAGEMAKER_BIND_HOST": "127.0.0.1",
        }

    def _wait_until_healthy(self) -> None:
        seconds = self.production.get("ContainerStartupHealthCheckTimeoutInSeconds", DEFAULT_STARTUP_SECONDS)
        if self.account.faults.now.endpoint.never_healthy:
            seconds = NEVER_HEALTHY_SECONDS
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            if self._ping():
                return
            time.sleep(_POLL_SECONDS)
        raise self._not_healthy()

    def _ping(self) -> bool:
        if self.account.faults.now.endpoint.never_healthy:
            return False
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _not_healthy(self) -> NotHealthyError:
        owner, place = f"production variant {self.production['VariantName']}", "endpoint"
        if self.component:
            owner, place = f"inference component {self.component}", "inference component"
        return NotHealthyError(
            f"The primary container for {owner} did not pass the ping health check. Please check CloudWatch logs "
            f"for this {place}."
        )

    def die(self) -> None:
        """The container's processes are gone from one moment to the next."""
        if self._process is not None:
            signal_group(self._process, signal.SIGKILL)
            self._process.wait()

    def end(self) -> None:
        """SIGTERM, then SIGKILL; the rest of the log is sent, and the folder goes."""
        if self._process is not None:
            signal_group(self._process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=TERM_SECONDS)
            signal_group(self._process, signal.SIGKILL)
            self._process.wait()
        if self._shipper is not None:
            self._shipper.finish()
        shutil.rmtree(self.folder, ignore_errors=True)


def launch(
    account: SageMakerAccount,
    models: Models,
    *,
    endpoint: str,
    production: dict[str, Any],
    model_name: str,
    component: str = "",
) -> Variant:
    """Start a container of the model and wait until it is healthy. Raises what `Variant.start` raises."""
    model = models.get(model_name)
    stem = f"{component or endpoint}-{production['VariantName']}-{time.monotonic_ns()}"
    variant = Variant(
        account=account,
        endpoint=endpoint,
        production=production,
        role=model["ExecutionRoleArn"],
        container=models.container(model),
        folder=account.settings.root / "endpoints" / stem,
        component=component,
    )
    try:
        variant.start()
    except BaseException:
        variant.end()
        raise
    return variant


def failure_reason(error: Exception) -> str:
    """Why a container was not launched, as a FailureReason says it."""
    if isinstance(error, ApiError):
        return error.message
    if isinstance(error, (NotHealthyError, ClientError)):
        return str(error)
    return f"Internal error of the embedded AWS: {type(error).__name__}: {error}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
