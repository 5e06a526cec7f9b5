"""Images: those that the embedded CodeBuild has pushed, and stand-ins of public ones."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_aws.containers import Command
from local_aws.errors import ApiError
from local_aws.iam import Roles
from local_aws.settings import REPOSITORY, Settings

_URI = re.compile(
    r"^(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com/"
    r"(?P<repository>[a-z0-9][a-z0-9._/-]*)(?:@(?P<digest>sha256:[0-9a-f]{64})|:(?P<tag>[\w][\w.-]{0,127}))?$"
)
_PULL_ACTIONS = ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage")


@dataclass(frozen=True, kw_only=True)
class ImageName:
    account: str
    region: str
    repository: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, uri: str) -> ImageName:
        match = _URI.match(uri or "")
        if match is None:
            raise ApiError("ValidationException", f"The image {uri!r} is not an image in Amazon ECR.")
        return cls(**match.groupdict())

    @property
    def repository_arn(self) -> str:
        return f"arn:aws:ecr:{self.region}:{self.account}:repository/{self.repository}"

    def image_id(self) -> dict[str, str]:
        return {"imageDigest": self.digest} if self.digest else {"imageTag": self.tag or "latest"}


class Images:
    """Finds the command of an image, as a role that must be allowed to pull it."""

    def __init__(self, settings: Settings, roles: Roles) -> None:
        self._settings, self._roles = settings, roles
        public = json.loads(Path(__file__).with_name("public_images.json").read_text())
        self._public: Mapping[str, list[str]] = public

    def folder(self, digest: str) -> Path:
        """Where the content of a built image lies."""
        return self._settings.root / "images" / digest.removeprefix("sha256:")

    def save(self, digest: str, command: list[str], directory: Path, environment: Mapping[str, str]) -> None:
        description = {"command": command, "directory": str(directory), "environment": dict(environment)}
        (self.folder(digest) / "image.json").write_text(json.dumps(description, indent=1))

    def pull(self, uri: str, role_arn: str, principal: str) -> Command:
        """The command of the image. Raises ApiError when it is missing or the role may not pull it."""
        name = ImageName.parse(uri)
        if name.account != self._settings.account:
            return self._pull_public(name, uri, role_arn, principal)
        ecr = self._roles.client("ecr", role_arn, principal)
        ecr.get_authorization_token()
        found: Any = ecr.batch_get_image(repositoryName=name.repository, imageIds=[name.image_id()])
        if not found["images"]:
            raise ApiError("ValidationException", f"Requested image {uri} not found.")
        digest = found["images"][0]["imageId"]["imageDigest"]
        ecr.batch_check_layer_availability(repositoryName=name.repository, layerDigests=[digest])
        self._roles.require(role_arn, principal, "ecr:GetDownloadUrlForLayer", name.repository_arn)
        described = self.folder(digest) / "image.json"
        if not described.exists():
            raise ApiError(
                "ValidationException",
                f"The image {uri} was not built by the embedded CodeBuild, so there is nothing to run.",
            )
        image = json.loads(described.read_text())
        return Command(
            arguments=tuple(image["command"]),
            directory=Path(image["directory"]),
            environment=image["environment"],
        )

    def _pull_public(self, name: ImageName, uri: str, role_arn: str, principal: str) -> Command:
        words = self._public.get(name.repository)
        if words is None:
            raise ApiError(
                "ValidationException",
                f"Requested image {uri} not found: the embedded AWS has stand-ins for "
                f"{', '.join(sorted(self._public))} only (local_aws/public_images.json).",
            )
        self.require_pull(name, role_arn, principal)
        arguments = [sys.executable if words[0] == "python" else words[0], *words[1:]]
        return Command(arguments=tuple(arguments), directory=REPOSITORY, environment={"PYTHONPATH": str(REPOSITORY)})

    def require_pull(self, name: ImageName, role_arn: str, principal: str) -> None:
        """Raise AccessDeniedException unless the role may pull from a repository of another account."""
        self._roles.require(role_arn, principal, "ecr:GetAuthorizationToken", "*")
        for action in _PULL_ACTIONS:
            self._roles.require(role_arn, principal, action, name.repository_arn)
