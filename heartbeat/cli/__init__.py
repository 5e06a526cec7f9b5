"""The command line: `python -m heartbeat`. The one part of the package that calls AWS and draws on a terminal.

Commands are imported when they are called for: `--help` needs the standard library only.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

from heartbeat.cli.errors import Failed, UserError
from heartbeat.cli.parser import parse

USER_ERROR, FAILED, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. HEARTBEAT_DEBUG=1 shows tracebacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows ASCII only shows ? for what it lacks
    arguments = parse(argv)
    try:
        return int(importlib.import_module(f"heartbeat.cli.{arguments.module}").run(arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if os.environ.get("HEARTBEAT_DEBUG"):
            raise
        return _say(error)


def _say(error: Exception) -> int:
    """One line about `error` on standard error, and the exit status that it means."""
    if isinstance(error, Failed):
        text, status = str(error), FAILED
    elif isinstance(error, UserError | LookupError | ValueError | OSError) and _is_ours(error):
        text, status = str(error), USER_ERROR
    elif "botocore" in sys.modules and (explained := _explain_aws(error)):
        text, status = explained, USER_ERROR
    elif isinstance(error, OSError):
        text, status = f"{error.filename or 'input/output'}: {error.strerror or error}", USER_ERROR
    else:
        text = f"unexpected {type(error).__name__}: {error}; HEARTBEAT_DEBUG=1 shows where"
        status = FAILED
    print(f"heartbeat: {text}", file=sys.stderr)
    return status


def _is_ours(error: Exception) -> bool:
    """Whether a class of this project says so: its errors name the setting, the value and the fix."""
    return type(error).__module__.startswith("heartbeat.")


def _explain_aws(error: Exception) -> str | None:
    from heartbeat.cli.errors import explain

    return explain(error)
