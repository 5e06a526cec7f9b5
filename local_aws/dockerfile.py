"""Read a Dockerfile and carry out what needs no container: COPY, WORKDIR, ENV and ENTRYPOINT.

RUN is skipped and said so: the laptop's Python environment stands in for what it would install.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from local_aws.containers import with_this_python

_SAID_ONLY = {"LABEL", "EXPOSE", "STOPSIGNAL", "USER", "MAINTAINER", "VOLUME", "SHELL", "HEALTHCHECK"}


class DockerfileError(Exception):
    """A Dockerfile that cannot be carried out, with its line."""


@dataclass
class Built:
    """An image under construction; `root` is its file system."""

    root: Path
    base: str = ""
    workdir: PurePosixPath = field(default_factory=lambda: PurePosixPath("/"))
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What the build has to say, one line each."""

    def directory(self) -> Path:
        return self.on_disk(str(self.workdir))

    def on_disk(self, path: str) -> Path:
        """Where an absolute path of the image lies."""
        return self.root / path.lstrip("/")


def build(dockerfile: Path, context: Path, root: Path) -> Built:
    """Carry out the Dockerfile on the context. Raises DockerfileError."""
    image = Built(root=root)
    root.mkdir(parents=True, exist_ok=True)
    arguments: dict[str, str] = {}
    for number, instruction, rest in _instructions(dockerfile.read_text()):
        try:
            if instruction == "FROM":
                _from(image, _expand(rest, arguments))
            elif instruction == "ARG":
                name, _, default = rest.partition("=")
                arguments[name.strip()] = _unquote(default)
            elif not image.base:
                raise DockerfileError("the first instruction must be FROM")
            else:
                _carry_out(image, instruction, rest, context, {**arguments, **image.environment})
        except DockerfileError as error:
            raise DockerfileError(f"{dockerfile.name}:{number}: {instruction} {rest}: {error}") from None
    if not image.entrypoint and not image.command:
        raise DockerfileError(f"{dockerfile.name}: no ENTRYPOINT and no CMD, so the image runs nothing")
    image.directory().mkdir(parents=True, exist_ok=True)
    return image


def _instructions(text: str) -> list[tuple[int, str, str]]:
    """(line number, INSTRUCTION, rest), with continued lines joined and comments dropped."""
    found, pending, start = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("#") or (not line.strip() and not pending):
            continue
        start = start or number
        pending += line.rstrip()
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
            continue
        instruction, _, rest = pending.strip().partition(" ")
        found.append((start, instruction.upper(), rest.strip()))
        pending, start = "", 0
    return found


def _from(image: Built, rest: str) -> None:
    words = [word for word in rest.split() if not word.startswith("--platform")]
    if image.base:
        raise DockerfileError("a second stage is not supported by the embedded AWS")
    if not words:
        raise DockerfileError("names no image")
    image.base = words[0]
    image.said.append(f"FROM {image.base}: the laptop's environment stands in")


def _carry_out(image: Built, instruction: str, rest: str, context: Path, variables: dict[str, str]) -> None:
    if instruction == "RUN":
        image.said.append(f"RUN {rest}: skipped, the laptop's environment stands in")
    elif instruction == "WORKDIR":
        image.workdir = image.workdir / _expand(_unquote(rest), variables)
    elif instruction == "ENV":
        image.environment.update(_env(rest, variables))
    elif instruction == "COPY":
        _copy(image, _expand(rest, variables), context)
    elif instruction == "ENTRYPOINT":
        image.entrypoint, image.command = _exec_form(rest), []
    elif instruction == "CMD":
        image.command = _exec_form(rest)
    elif instruction not in _SAID_ONLY:
        raise DockerfileError(
            "is not supported by the embedded AWS; use FROM, ARG, WORKDIR, COPY, ENV, RUN, ENTRYPOINT or CMD"
        )


def _expand(text: str, variables: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        return variables.get(match[1] or match[2], match[3] or "")

    return re.sub(r"\$(?:(\w+)|\{(\w+)(?::-([^}]*))?\})", value, text)


def _unquote(text: str) -> str:
    words = shlex.split(text)
    return words[0] if words else ""


def _env(rest: str, variables: dict[str, str]) -> dict[str, str]:
    words = shlex.split(rest)
    if words and "=" not in words[0]:  # the old form: ENV NAME the rest is the value
        return {words[0]: _expand(" ".join(words[1:]), variables)}
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(f"{word!r} is not NAME=value")
        pairs[name] = _expand(value, variables)
    return pairs


def _exec_form(rest: str) -> list[str]:
    try:
        words = json.loads(rest)
    except ValueError:
        words = None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise DockerfileError('must have the exec form, as in ["python", "-m", "package.module"]')
    return words


def _copy(image: Built, rest: str, context: Path) -> None:
    words = _exec_form(rest) if rest.startswith("[") else shlex.split(rest)
    options = [word for word in words if word.startswith("--")]
    paths = [word for word in words if not word.startswith("--")]
    if any(not option.startswith(("--chown", "--chmod", "--link")) for option in options):
        raise DockerfileError(f"option {' '.join(options)} is not supported by the embedded AWS")
    if len(paths) < 2:
        raise DockerfileError("needs a source and a destination")
    *patterns, destination = paths
    into_folder = destination.endswith("/") or destination == "." or len(patterns) > 1
    target = image.on_disk(str(image.workdir / destination))
    for pattern in patterns:
        sources = _matches(context, pattern)
        for source in sources:
            _copy_one(source, target, into_folder=into_folder or len(sources) > 1)


def _matches(context: Path, pattern: str) -> list[Path]:
    relative = pattern.lstrip("/")
    if ".." in PurePosixPath(relative).parts:
        raise DockerfileError(f"{pattern} lies outside the build context")
    if relative in ("", ".", "./"):
        return [context]
    found = sorted(context.glob(relative)) if any(c in relative for c in "*?[") else [context / relative]
    found = [path for path in found if path.exists()]
    if not found:
        raise DockerfileError(f"{pattern} is not in the source; it holds {', '.join(_listing(context))}")
    return found


def _listing(context: Path) -> list[str]:
    return sorted(path.name for path in context.iterdir())


def _copy_one(source: Path, target: Path, *, into_folder: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
        return
    place = target / source.name if into_folder or target.is_dir() else target
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, place)


def runnable(image: Built) -> tuple[list[str], dict[str, str]]:
    """The image's command and environment with its own absolute paths turned into paths on disk.

    `python` is this interpreter. PYTHONPATH starts with the working folder.
    """
    words = list(with_this_python([*image.entrypoint, *image.command]))
    words = [words[0], *(_on_disk(image, word) for word in words[1:])]
    environment = {
        name: ":".join(_on_disk(image, part) for part in value.split(":"))
        for name, value in image.environment.items()
        if name != "PATH"  # the image's programs are not there
    }
    own_path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = ":".join(filter(None, [str(image.directory()), own_path]))
    return words, environment


def _on_disk(image: Built, text: str) -> str:
    if text.startswith("/") and text != "/" and (path := image.on_disk(text)).exists():
        return str(path)
    return text
