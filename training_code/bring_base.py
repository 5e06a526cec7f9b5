"""Bring a base model into the bucket: `python -m training_code.bring_base`, started as a SageMaker job of its own.

Three stages, each skipped where its result is there: the checkpoint from the hub, straight into S3; NF4 packs of it;
an FP8 copy of it. Settings are hyperparameters (heartbeat.base_weights.BringJob). The hub's token is read from Secrets
Manager into memory, and goes nowhere but into the requests to the hub.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from types import FrameType

import torch
from botocore.exceptions import BotoCoreError, ClientError

from heartbeat import layout
from heartbeat.base_weights import BringJob
from heartbeat.execution import InputError
from training_code import bucket, hollow, merge, quantize
from training_code.bucket import Folder
from training_code.environment import Environment
from training_code.errors import TrainingError
from training_code.fetch import Fetch, Stopped
from training_code.hub import Hub, Token


def main() -> int:
    environment = Environment.of_process()
    with environment.ready_to_fail():
        return _main(environment)


def _main(environment: Environment) -> int:
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if not stopping.is_set():
            stopping.set()
            raise Stopped

    signal.signal(signal.SIGTERM, stop)
    try:
        bring(BringJob.from_hyperparameters(environment.hyperparameters()), environment, stopping)
    except Stopped:
        print("stopped; what is finished stays, and the next job goes on from there", flush=True)
    except (TrainingError, InputError) as error:
        return environment.fail(str(error))
    except (ClientError, BotoCoreError) as error:
        return environment.fail(f"AWS: {bucket.said(error)}")
    except Exception as error:
        traceback.print_exc()
        return environment.fail(f"unexpected {type(error).__name__}: {error}; the log has the details")
    return 0


def bring(job: BringJob, environment: Environment, stopping: threading.Event) -> None:
    """Make in the bucket what is not there yet. Raises TrainingError, and Stopped once `stopping` is set."""
    region = job.token_secret.split(":")[3]  # arn:aws:secretsmanager:REGION:…
    s3 = bucket.client("s3", region)
    root = Folder(s3=s3, bucket=job.bucket, prefix=job.folder)
    folders = {one: Folder(s3=s3, bucket=job.bucket, prefix=f"{job.folder}{one}/") for one in job.make}
    source = Folder(s3=s3, bucket=job.bucket, prefix=f"{job.folder}bf16/")
    device = torch.device("cpu")
    for one in job.make:
        print(f"== {one}: {folders[one].uri}", flush=True)
        if one == "bf16":
            token = _token(job.token_secret, region)
            Fetch(hub=Hub(job.hub, token), job=job, folder=source, root=root, stop=stopping).run()
            continue
        with hollow.borrowed(source, folders[one], environment.root / "scratch" / one) as (base, folder, files):
            if one == "nf4":
                quantize.quantize(base, folder, device=device, files=files)
            else:
                merge.convert(base, folder, dtype="fp8", files=files)
    print(f"done: {', '.join(job.make)} at {layout.uri(job.bucket, job.folder)}", flush=True)


def _token(secret: str, region: str) -> Token:
    try:
        found = bucket.client("secretsmanager", region).get_secret_value(SecretId=secret)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        raise TrainingError(
            f"the secret {secret} holds no token; store one with `python -m heartbeat base-model token`"
        ) from None
    return Token(found.get("SecretString") or "", kept_in=secret)


if __name__ == "__main__":
    sys.exit(main())
