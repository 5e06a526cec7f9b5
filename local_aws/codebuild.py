"""CodeBuild: a build fetches its source, carries out the Dockerfile and pushes the image, as the project's role.

ministack keeps projects and build records; this replaces how a build is started, run and stopped. The build spec
is not executed: a project's environment variables say what to build (DOCKERFILE, REPOSITORY_URI, IMAGE_TAG).
"""

from __future__ import annotations

import contextvars
import copy
import hashlib
import json
import shutil
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from ministack.core.responses import error_response_json, json_response
from ministack.services import codebuild as service

from local_aws import dockerfile
from local_aws.errors import ApiError
from local_aws.iam import CODEBUILD, Roles
from local_aws.images import ImageName, Images
from local_aws.settings import Settings
from local_aws.transfer import download_object, files_in

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class BuildError(Exception):
    """Why a build failed, for its phase and its log."""


class CodeBuild:
    def __init__(self, settings: Settings, roles: Roles, images: Images) -> None:
        self._settings, self._roles, self._images = settings, roles, images
        self._stopped: set[str] = set()

    def install(self) -> None:
        service._start_build = self._start_build
        service._stop_build = self._stop_build

    def _start_build(self, request: dict[str, Any]) -> Any:
        project = service._projects.get(request.get("projectName", ""))
        if project is None:
            name = request.get("projectName")
            return error_response_json("ResourceNotFoundException", f"Project cannot be found: {name}", 400)
        build_id = service._build_id(project["name"])
        record = service._make_build_record(project, build_id, request.get("sourceVersion"))
        record.pop("endTime")
        record.update(
            buildStatus="IN_PROGRESS",
            currentPhase="QUEUED",
            buildComplete=False,
            serviceRole=project["serviceRole"],
            environment=_environment(project, request),
            phases=[_phase("SUBMITTED", "SUCCEEDED"), _phase("QUEUED", "SUCCEEDED")],
        )
        record["logs"] = self._log_location(project, record["logs"])
        service._builds[build_id] = record
        context = contextvars.copy_context()
        build = Build(self._settings, self._roles, self._images, record, self._is_stopped)
        threading.Thread(target=context.run, args=(build.run,), name=f"build {build_id}", daemon=True).start()
        return json_response({"build": copy.deepcopy(record)})

    def _log_location(self, project: dict[str, Any], location: dict[str, str]) -> dict[str, str]:
        configured = project.get("logsConfig", {}).get("cloudWatchLogs", {})
        location = {**location, "groupName": configured.get("groupName") or location["groupName"]}
        location["streamName"] = location["streamName"].split("/")[-1]
        if configured.get("streamName"):
            location["streamName"] = f"{configured['streamName']}/{location['streamName']}"
        return location

    def _stop_build(self, request: dict[str, Any]) -> Any:
        build_id = request.get("id", "").split(":build/")[-1]
        record = service._builds.get(build_id)
        if record is None:
            return error_response_json("ResourceNotFoundException", f"Build not found: {build_id}", 400)
        if record["buildStatus"] == "IN_PROGRESS":
            self._stopped.add(build_id)
            _finish(record, "STOPPED")
        return json_response({"build": copy.deepcopy(record)})

    def _is_stopped(self, build_id: str) -> bool:
        return build_id in self._stopped


class Build:
    """One build; `run` is its thread."""

    def __init__(
        self, settings: Settings, roles: Roles, images: Images, record: dict[str, Any], is_stopped: Any
    ) -> None:
        self._settings, self._roles, self._images = settings, roles, images
        self._record, self._is_stopped = record, is_stopped
        self._role = record["serviceRole"]
        self._variables = {v["name"]: v["value"] for v in record["environment"]["environmentVariables"]}
        self._folder = settings.root / "builds" / record["id"].split(":")[-1]

    def run(self) -> None:
        status = "SUCCEEDED"
        try:
            self._open_log()
            self._phase("PROVISIONING", lambda: None)
            self._phase("DOWNLOAD_SOURCE", self._download)
            self._phase("BUILD", self._build)
            self._phase("POST_BUILD", self._push)
        except BuildError:
            status = "FAILED"
        except BaseException:
            status = "FAULT"
            raise
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            if not self._is_stopped(self._record["id"]):
                _finish(self._record, status)

    def _phase(self, name: str, work: Any) -> None:
        if self._is_stopped(self._record["id"]):
            raise BuildError("stopped")
        phase = _phase(name, None)
        self._record["phases"].append(phase)
        self._record["currentPhase"] = name
        self._say(f"Entering phase {name}")
        try:
            work()
        except (BuildError, dockerfile.DockerfileError, ApiError, ClientError, BotoCoreError, OSError) as error:
            phase.update(phaseStatus="FAILED", contexts=[{"statusCode": "CLIENT_ERROR", "message": str(error)}])
            self._say(f"Phase context status code: CLIENT_ERROR Message: {error}")
            self._say(f"Phase complete: {name} State: FAILED")
            raise BuildError(str(error)) from error
        finally:
            phase["endTime"] = time.time()
            phase["durationInSeconds"] = round(phase["endTime"] - phase["startTime"])
        phase["phaseStatus"] = "SUCCEEDED"
        self._say(f"Phase complete: {name} State: SUCCEEDED")

    def _client(self, service_name: str) -> Any:
        return self._roles.client(service_name, self._role, CODEBUILD)

    def _open_log(self) -> None:
        """The build's log stream. A role that may not write it fails the build, as in CodeBuild."""
        location = self._record["logs"]
        try:
            logs = self._client("logs")
            for create, names in (
                (logs.create_log_group, {}),
                (logs.create_log_stream, {"logStreamName": location["streamName"]}),
            ):
                try:
                    create(logGroupName=location["groupName"], **names)
                except logs.exceptions.ResourceAlreadyExistsException:
                    continue
                except ClientError:
                    if names or not self._log_group_exists(location["groupName"]):
                        raise
            self._say(f"Running build {self._record['id']}")
        except (ApiError, ClientError) as error:
            message = f"ACCESS_DENIED: Service role {self._role} does not allow the build to log: {error}"
            phase = _phase("PROVISIONING", "FAILED")
            phase["contexts"] = [{"statusCode": "ACCESS_DENIED", "message": message}]
            self._record["phases"].append(phase)
            raise BuildError(message) from error

    def _log_group_exists(self, name: str) -> bool:
        groups = self._roles.service_client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
        return any(group["logGroupName"] == name for group in groups)

    def _say(self, line: str) -> None:
        location = self._record["logs"]
        self._client("logs").put_log_events(
            logGroupName=location["groupName"],
            logStreamName=location["streamName"],
            logEvents=[{"timestamp": int(time.time() * 1000), "message": f"[Container] {line}"}],
        )

    def _download(self) -> None:
        source = self._record["source"]
        if source.get("type") != "S3":
            raise BuildError(f"source type {source.get('type')} is not supported by the embedded AWS: use S3")
        bucket, _, key = source["location"].removeprefix("arn:aws:s3:::").partition("/")
        self._folder.mkdir(parents=True)
        archive = self._folder / "source.zip"
        download_object(self._client("s3"), bucket, key, archive)
        try:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(self._folder / "source")
        except zipfile.BadZipFile:
            raise BuildError(f"s3://{bucket}/{key} is not a zip archive") from None

    def _build(self) -> None:
        context = self._folder / "source"
        name = self._variables.get("DOCKERFILE", "Dockerfile")
        if not (context / name).is_file():
            held = ", ".join(sorted(path.name for path in context.iterdir()))
            raise BuildError(f"{name} is not in the source, which holds {held}: set DOCKERFILE")
        digest = self._digest(context, name)
        content = self._images.folder(digest)
        if not (content / "image.json").exists():  # else it may be running: the same content stays where it is
            shutil.rmtree(content, ignore_errors=True)
        image = dockerfile.build(context / name, context, content / "rootfs")
        for line in image.said:
            self._say(line)
        self._require_base(image.base)
        command, environment = dockerfile.runnable(image)
        self._images.save(digest, command, image.directory(), environment)

    def _digest(self, context: Path, name: str) -> str:
        """The image's digest: that of its manifest, which names every file by its digest."""
        layers = [
            {"path": path.relative_to(context).as_posix(), "digest": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in files_in(context)
        ]
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": {"dockerfile": name}, "layers": layers}
        self._manifest = json.dumps(manifest, sort_keys=True)
        return "sha256:" + hashlib.sha256(self._manifest.encode()).hexdigest()

    def _require_base(self, base: str) -> None:
        """A base image in another account's ECR is pulled as the role too."""
        try:
            name = ImageName.parse(base)
        except ApiError:
            return  # Docker Hub or another registry: no permission of AWS
        self._images.require_pull(name, self._role, CODEBUILD)

    def _push(self) -> None:
        repository_uri, tag = self._variable("REPOSITORY_URI"), self._variable("IMAGE_TAG")
        repository = ImageName.parse(repository_uri).repository
        ecr = self._client("ecr")
        layer = "sha256:" + hashlib.sha256(b"layer" + self._manifest.encode()).hexdigest()
        ecr.get_authorization_token()
        ecr.batch_check_layer_availability(repositoryName=repository, layerDigests=[layer])
        upload = ecr.initiate_layer_upload(repositoryName=repository)["uploadId"]
        ecr.upload_layer_part(
            repositoryName=repository, uploadId=upload, partFirstByte=0, partLastByte=0, layerPartBlob=b"0"
        )
        ecr.complete_layer_upload(repositoryName=repository, uploadId=upload, layerDigests=[layer])
        ecr.put_image(
            repositoryName=repository,
            imageManifest=self._manifest,
            imageManifestMediaType=_MANIFEST,
            imageTag=tag,
        )
        self._say(f"Pushed {repository_uri}:{tag}")

    def _variable(self, name: str) -> str:
        value = self._variables.get(name)
        if not value:
            raise BuildError(f"the project's environment variable {name} is missing")
        return str(value)


def _environment(project: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """The project's environment with the variables of the request over it."""
    variables = {v["name"]: v for v in project["environment"].get("environmentVariables") or []}
    variables |= {v["name"]: v for v in request.get("environmentVariablesOverride") or []}
    return {**project["environment"], "environmentVariables": list(variables.values())}


def _phase(name: str, status: str | None) -> dict[str, Any]:
    moment = time.time()
    phase: dict[str, Any] = {"phaseType": name, "startTime": moment}
    if status:
        phase.update(phaseStatus=status, endTime=moment, durationInSeconds=0)
    return phase


def _finish(record: dict[str, Any], status: str) -> None:
    record["phases"].append({"phaseType": "COMPLETED", "startTime": time.time()})
    record.update(buildStatus=status, currentPhase="COMPLETED", buildComplete=True, endTime=time.time())
