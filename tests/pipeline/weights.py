"""The app's base weights and the state machine that brings them."""

from __future__ import annotations

import json
import time
from typing import Any

from heartbeat.layout import BASE_MODEL, base_model_prefix
from tests.pipeline.conftest import PATIENCE_SECONDS, Cloud, Outcome


class Weights:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._s3, self._bucket = cloud.client("s3"), cloud.outputs["ArtifactBucketName"]
        self._secrets, self._secret = cloud.client("secretsmanager"), cloud.outputs["HubTokenSecretArn"]

    def names(self, prefix: str) -> set[str]:
        found = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=prefix).get("Contents", [])
        return {item["Key"].removeprefix(prefix) for item in found}

    def made(self, weight_format: str) -> set[str]:
        return self.names(base_model_prefix(BASE_MODEL, weight_format))

    def _move(self, source: str, target: str) -> None:
        for name in self.names(source):
            copied = {"Bucket": self._bucket, "Key": source + name}
            self._s3.copy_object(Bucket=self._bucket, Key=target + name, CopySource=copied)
            self._s3.delete_object(Bucket=self._bucket, Key=source + name)

    def put_aside(self) -> None:
        self._move("base-models/", "aside/")

    def put_back(self) -> None:
        for name in self.names("base-models/"):
            self._s3.delete_object(Bucket=self._bucket, Key="base-models/" + name)
        self._move("aside/", "base-models/")

    def set_token(self, value: str) -> None:
        self._secrets.put_secret_value(SecretId=self._secret, SecretString=value)

    def remove_token(self) -> None:
        versions = self._secrets.describe_secret(SecretId=self._secret)["VersionIdsToStages"]
        for version, stages in versions.items():
            if "AWSCURRENT" in stages:
                self._secrets.update_secret_version_stage(
                    SecretId=self._secret, VersionStage="AWSCURRENT", RemoveFromVersionId=version
                )

    def start(self, **given: Any) -> str:
        started = self._cloud.client("stepfunctions").start_execution(
            stateMachineArn=self._cloud.outputs["WeightsStateMachineArn"], input=json.dumps(given)
        )
        return str(started["executionArn"])

    def bring(self, **given: Any) -> Outcome:
        return self._cloud.wait(self.start(**given))

    def wait_for_download(self) -> None:
        """Until the hub has sent something."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._cloud.hub.served:
            assert time.monotonic() < deadline, "nothing is fetched from the hub"
            time.sleep(0.1)

    def executions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._cloud.client("stepfunctions").list_executions(
            stateMachineArn=self._cloud.outputs["WeightsStateMachineArn"]
        )["executions"]
        return found

    def repository(self) -> set[str]:
        assert self._cloud.hub.folder is not None
        return {path.name for path in self._cloud.hub.folder.iterdir()}
