"""How a run's training stands: its job, and the figures of its log in CloudWatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from heartbeat import metrics
from heartbeat.cli.account import App, client
from heartbeat.execution import run_id

LOG_GROUP = "/aws/sagemaker/TrainingJobs"


@dataclass
class Progress:
    """What is known of the latest training job of a run; figures by their key in heartbeat.metrics."""

    job: str = ""
    instance_type: str = ""
    status: str = ""
    """SageMaker's SecondaryStatus: Starting, Downloading, Training, Uploading, …"""
    max_steps: int = 0
    said: str = ""
    """The last line of the log that is no figure."""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def step(self) -> int:
        return int(self.figures.get("step", 0))

    def read(self, log_line: str) -> None:
        found = metrics.parse_line(log_line)
        self.figures.update(found)
        if not found and log_line.strip():
            self.said = log_line.strip(" =\n")


class TrainingLog:
    """Follows the training of one execution. `progress` starts afresh with each new job of it."""

    def __init__(self, app: App, execution_arn: str) -> None:
        self.progress = Progress()
        self._stem = run_id(app.environment, execution_arn)
        self._tokens: dict[str, str] = {}

    def update(self) -> None:
        """Reads what is new."""
        jobs = client("sagemaker").list_training_jobs(
            NameContains=self._stem, SortBy="CreationTime", SortOrder="Descending", MaxResults=1
        )["TrainingJobSummaries"]
        if not jobs:
            return
        name = jobs[0]["TrainingJobName"]
        if name != self.progress.job:
            self.progress = Progress(job=name)
        job = client("sagemaker").describe_training_job(TrainingJobName=name)
        self.progress.instance_type = job["ResourceConfig"].get("InstanceType", "")
        self.progress.status = job["SecondaryStatus"]
        self.progress.max_steps = int(job.get("HyperParameters", {}).get("MAX_STEPS", 0))
        for stream in self._streams(name):
            for text in self._new_lines(stream):
                self.progress.read(text)

    def _streams(self, job: str) -> list[str]:
        try:
            found: dict[str, Any] = client("logs").describe_log_streams(
                logGroupName=LOG_GROUP, logStreamNamePrefix=f"{job}/"
            )
        except ClientError as error:
            # The group comes with the account's first job, some seconds after it.
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return []
            raise
        return [stream["logStreamName"] for stream in found["logStreams"]]

    def _new_lines(self, stream: str) -> list[str]:
        lines: list[str] = []
        while True:
            token = self._tokens.get(stream)
            page = client("logs").get_log_events(
                logGroupName=LOG_GROUP,
                logStreamName=stream,
                startFromHead=True,
                **({"nextToken": token} if token else {}),
            )
            lines += [event["message"] for event in page["events"]]
            # The token that was sent comes back where there is nothing more.
            if not page["events"] or page["nextForwardToken"] == token:
                return lines
            self._tokens[stream] = page["nextForwardToken"]
