"""Models, model packages and endpoint configurations: records that an endpoint is made from."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from local_aws.errors import ApiError, invalid
from local_aws.iam import SAGEMAKER
from local_aws.registry import Request, SageMakerAccount, list_page, name_in, now

_CONTAINER_MEMBERS_OF_PACKAGE = ("Image", "ModelDataUrl", "ModelDataSource", "AdditionalModelDataSources")


class Records:
    """One kind of named, immutable record: a model or an endpoint configuration."""

    def __init__(self, account: SageMakerAccount, *, kind: str, label: str, member: str, arn_member: str):
        self._account = account
        self._kind, self._label, self._member, self._arn_member = kind, label, member, arn_member
        self._records: dict[str, dict[str, Any]] = {}

    def create(self, request: Request) -> dict[str, Any]:
        name = name_in(request, self._member)
        arn = self._account.arn(self._kind, name)
        if name in self._records:
            raise invalid(f'Cannot create already existing {self._label} "{arn}".')
        kept = {key: value for key, value in request.items() if key != "Tags"}
        self._records[name] = {**kept, self._arn_member: arn, "CreationTime": now()}
        self._account.add_tags(arn, request.get("Tags"))
        return {self._arn_member: arn}

    def get(self, name: str) -> dict[str, Any]:
        if name not in self._records:
            raise invalid(f'Could not find {self._label} "{self._account.arn(self._kind, name)}".')
        return self._records[name]

    def describe(self, request: Request) -> dict[str, Any]:
        return dict(self.get(request[self._member]))

    def delete(self, request: Request) -> None:
        record = self.get(request[self._member])
        del self._records[request[self._member]]
        self._account.tags.pop(record[self._arn_member], None)

    def list(self, request: Request) -> tuple[list[dict[str, Any]], dict[str, str]]:
        return list_page(
            list(self._records.values()),
            request,
            name=self._member,
            members=(self._member, self._arn_member, "CreationTime"),
        )


class Models(Records):
    def __init__(self, account: SageMakerAccount, packages: ModelPackages) -> None:
        super().__init__(account, kind="model", label="model", member="ModelName", arn_member="ModelArn")
        self._packages = packages

    def create(self, request: Request) -> dict[str, Any]:
        container = self.container(request)
        role = request.get("ExecutionRoleArn")
        if not role:
            raise invalid("ExecutionRoleArn is required when a model has containers")
        self._account.roles.assume(role, SAGEMAKER)
        try:
            self._account.images.pull(container["Image"], role, SAGEMAKER)
        except ClientError as error:
            raise invalid(f"The role {role} cannot pull the image {container['Image']}: {error}") from error
        return super().create(request)

    def container(self, request: Request) -> dict[str, Any]:
        """The one container that serves, with what its model package adds. Raises ApiError."""
        containers = request.get("Containers") or []
        if request.get("PrimaryContainer"):
            containers = [request["PrimaryContainer"], *containers]
        if len(containers) != 1:
            raise invalid(f"The embedded AWS serves models of one container; this one has {len(containers)}")
        container = dict(containers[0])
        package_name = container.get("ModelPackageName")
        if package_name:
            package = self._packages.get(package_name)
            if package.get("ModelApprovalStatus") == "Rejected":
                raise invalid(f"Model package {package['ModelPackageArn']} is rejected.")
            inner = package["InferenceSpecification"]["Containers"][0]
            inherited = {key: inner[key] for key in _CONTAINER_MEMBERS_OF_PACKAGE if key in inner}
            environment = {**inner.get("Environment", {}), **container.get("Environment", {})}
            container = {**inherited, **container, "Environment": environment}
        if not container.get("Image"):
            raise invalid("Image or ModelPackageName is required in a container definition")
        return container


class ModelPackages:
    """Groups and the versioned packages in them."""

    def __init__(self, account: SageMakerAccount) -> None:
        self._account = account
        self._groups: dict[str, dict[str, Any]] = {}
        self._packages: dict[str, dict[str, Any]] = {}

    def create_group(self, request: Request) -> dict[str, Any]:
        name = name_in(request, "ModelPackageGroupName")
        arn = self._account.arn("model-package-group", name)
        if name in self._groups:
            raise invalid(f"Model Package Group already exists: {arn}")
        self._groups[name] = {
            **{key: value for key, value in request.items() if key != "Tags"},
            "ModelPackageGroupArn": arn,
            "ModelPackageGroupStatus": "Completed",
            "CreationTime": now(),
            "CreatedBy": {},
        }
        self._account.add_tags(arn, request.get("Tags"))
        return {"ModelPackageGroupArn": arn}

    def _group(self, name: str) -> dict[str, Any]:
        short = name.rsplit("/", 1)[-1]
        group = self._groups.get(short)
        if group is None:
            arn = self._account.arn("model-package-group", short)
            raise ApiError("ResourceNotFound", f"ModelPackageGroup {arn} does not exist.")
        return group

    def describe_group(self, request: Request) -> dict[str, Any]:
        return dict(self._group(request["ModelPackageGroupName"]))

    def delete_group(self, request: Request) -> None:
        group = self._group(request["ModelPackageGroupName"])
        name = group["ModelPackageGroupName"]
        if any(package["ModelPackageGroupName"] == name for package in self._packages.values()):
            raise ApiError(
                "ConflictException",
                f"Model Package Group {group['ModelPackageGroupArn']} cannot be deleted as it contains versions.",
            )
        del self._groups[name]

    def list_groups(self, request: Request) -> dict[str, Any]:
        members = ("ModelPackageGroupName", "ModelPackageGroupArn", "CreationTime", "ModelPackageGroupStatus")
        page, more = list_page(list(self._groups.values()), request, name="ModelPackageGroupName", members=members)
        return {"ModelPackageGroupSummaryList": page, **more}

    def create(self, request: Request) -> dict[str, Any]:
        if not request.get("ModelPackageGroupName"):
            raise invalid("The embedded AWS has versioned model packages only: give ModelPackageGroupName")
        group = self._group(request["ModelPackageGroupName"])["ModelPackageGroupName"]
        if not request.get("InferenceSpecification", {}).get("Containers"):
            raise invalid("InferenceSpecification with a container is required")
        versions = [p["ModelPackageVersion"] for p in self._packages.values() if _is_in(p, group)]
        version = max(versions, default=0) + 1
        arn = self._account.arn("model-package", f"{group}/{version}")
        self._packages[arn] = {
            "ModelApprovalStatus": "PendingManualApproval",
            **{key: value for key, value in request.items() if key not in ("Tags", "ClientToken")},
            "ModelPackageGroupName": group,
            "ModelPackageVersion": version,
            "ModelPackageArn": arn,
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
            "CreationTime": now(),
        }
        self._account.add_tags(arn, request.get("Tags"))
        return {"ModelPackageArn": arn}

    def get(self, name: str) -> dict[str, Any]:
        if name not in self._packages:
            raise invalid(f"ModelPackage {name} does not exist.")
        return self._packages[name]

    def describe(self, request: Request) -> dict[str, Any]:
        return dict(self.get(request["ModelPackageName"]))

    def descriptions(self) -> list[dict[str, Any]]:
        return [dict(package) for package in self._packages.values()]

    def update(self, request: Request) -> dict[str, Any]:
        package = self.get(request["ModelPackageArn"])
        changes = {key: value for key, value in request.items() if key != "ModelPackageArn"}
        for name in changes.pop("CustomerMetadataPropertiesToRemove", []):
            package.get("CustomerMetadataProperties", {}).pop(name, None)
        added = changes.pop("CustomerMetadataProperties", {})
        package.setdefault("CustomerMetadataProperties", {}).update(added)
        package.update(changes, LastModifiedTime=now())
        return {"ModelPackageArn": package["ModelPackageArn"]}

    def delete(self, request: Request) -> None:
        package = self.get(request["ModelPackageName"])
        del self._packages[package["ModelPackageArn"]]

    def list(self, request: Request) -> dict[str, Any]:
        chosen = list(self._packages.values())
        if "ModelPackageGroupName" in request:
            group = self._group(request["ModelPackageGroupName"])["ModelPackageGroupName"]
            chosen = [package for package in chosen if _is_in(package, group)]
        if "ModelApprovalStatus" in request:
            chosen = [p for p in chosen if p["ModelApprovalStatus"] == request["ModelApprovalStatus"]]
        members = (
            "ModelPackageGroupName",
            "ModelPackageVersion",
            "ModelPackageArn",
            "ModelPackageDescription",
            "CreationTime",
            "ModelPackageStatus",
            "ModelApprovalStatus",
        )
        page, more = list_page(chosen, request, name="ModelPackageArn", members=members)
        return {"ModelPackageSummaryList": page, **more}


def _is_in(package: dict[str, Any], group: str) -> bool:
    return bool(package["ModelPackageGroupName"] == group)
