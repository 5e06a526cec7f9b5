"""Stages what is deployed: plain copies of exactly the files that count, made without Docker.

CDK's own local bundling hashes the source folder only, so an edit to shared code would keep the asset's key
and deploy stale code. What is staged here is what is hashed and what is deployed.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from heartbeat import tokens

ROOT = Path(__file__).resolve().parent.parent
STAGING = ".build"

_DOMAIN_SUFFIXES = frozenset({".py", ".csv", ".json", ".jsonl", ".template", ".toml"})
_GATE = "heartbeat/gate.toml"
_COMMAND_LINE = ("heartbeat/cli/", "heartbeat/__main__.py")  # never deployed


LAMBDA_PACKAGES = "lambda"
"""Folder of the environment: the packages for Lambda's machine that tools/environment.py put there."""


def stage_lambda(root: Path = ROOT, environment: Path = Path(sys.prefix), gate: Path | None = None) -> Path:
    """The Lambda functions' code: the handlers of lambda/ at the top, the domain as package `heartbeat`.

    With what counts tokens exactly, if `environment` (a virtual environment) has it: packages/ and the vocabulary.
    `gate`: the file that takes the place of heartbeat/gate.toml.
    """
    files = {path.name: path for path in sorted((root / "lambda").glob("*.py"))}
    files |= _domain(root) | _token_counting(environment)
    folder = "lambda"
    if gate is not None and gate != root / _GATE:
        files[_GATE] = gate
        # A folder of its own: another synth at the same time may stage another file.
        folder = f"lambda-{hashlib.sha256(gate.read_bytes()).hexdigest()[:8]}"
    return _stage(root / STAGING / folder, files)


def _token_counting(environment: Path) -> dict[str, Path]:
    vocabulary = environment / tokens.FOLDER / tokens.FILE_NAME
    if not vocabulary.is_file():
        return {}
    packages = {
        f"packages/{name.removeprefix(f'{LAMBDA_PACKAGES}/')}": path
        for name, path in _files(environment, LAMBDA_PACKAGES).items()
        if path.suffix in {".py", ".so"}
    }
    return packages | {f"{tokens.FOLDER}/{tokens.FILE_NAME}": vocabulary}


def stage_training_image(root: Path = ROOT) -> Path:
    """The training image's build context: training_code/ with its Dockerfile, and the domain."""
    return _stage(root / STAGING / "training_image", _files(root, "training_code") | _domain(root))


def _domain(root: Path) -> dict[str, Path]:
    code = {
        name: path
        for name, path in _files(root, "heartbeat").items()
        if path.suffix in _DOMAIN_SUFFIXES and not name.startswith(_COMMAND_LINE)
    }
    # The planner's measured rates, where `heartbeat.measurements` looks for them in a bundle.
    return code | {
        f"heartbeat/measured/{path.name}": path for path in sorted((root / "benchmarks" / "results").glob("*.json"))
    }


def _files(root: Path, folder: str) -> dict[str, Path]:
    """Files below `root/folder` by their name from `root`, without caches and hidden ones."""
    files = {path.relative_to(root): path for path in sorted((root / folder).rglob("*")) if path.is_file()}
    return {
        name.as_posix(): path
        for name, path in files.items()
        if not any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    }


def _stage(target: Path, files: dict[str, Path]) -> Path:
    """Makes `target` hold exactly `files` (name -> source) and returns it.

    A file that is already right is left alone, so that two synths at once do not disturb each other.
    """
    for path in sorted(target.rglob("*"), reverse=True):  # files before the folders that hold them
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(target).as_posix() not in files:
            path.unlink()
    for name, source in files.items():
        staged, content = target / name, source.read_bytes()
        if not staged.is_file() or staged.read_bytes() != content:
            staged.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(content)  # content only: neither mode nor time of the source comes along
    return target
