"""The Dockerfile reader, without a server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from local_aws.dockerfile import Built, DockerfileError, build, runnable


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "package").mkdir(parents=True)
    (folder / "package/__init__.py").write_text("")
    (folder / "package/main.py").write_text("print(1)")
    (folder / "requirements.txt").write_text("nothing\n")
    return folder


def built(context: Path, text: str) -> Built:
    dockerfile = context / "Dockerfile"
    dockerfile.write_text(text)
    return build(dockerfile, context, context.parent / "root")


def files(image: Built) -> list[str]:
    return sorted(str(p.relative_to(image.root)) for p in image.root.rglob("*") if p.is_file())


def test_instructions_are_carried_out(context: Path) -> None:
    image = built(
        context,
        "# a comment\nARG BASE=python:3.11\nFROM ${BASE}\nWORKDIR /opt\nWORKDIR app\n"
        "COPY package/ package/\nCOPY --chown=1:1 requirements.txt /etc/\n"
        'ENV A=1 B="two words" \\\n    EMPTY=$A\nENV C=$A/x\nENV OLD the old form\n'
        "RUN pip install \\\n  -r /etc/requirements.txt\n"
        'EXPOSE 8080\nENTRYPOINT ["python", "-m", "package.main"]\nCMD ["--quick"]\n',
    )
    assert image.base == "python:3.11"
    assert files(image) == ["etc/requirements.txt", "opt/app/package/__init__.py", "opt/app/package/main.py"]
    assert image.environment == {"A": "1", "B": "two words", "EMPTY": "", "C": "1/x", "OLD": "the old form"}
    assert any(line.startswith("RUN pip install") and "skipped" in line for line in image.said)
    words, environment = runnable(image)
    assert words == [sys.executable, "-m", "package.main", "--quick"]
    assert environment["PYTHONPATH"] == str(image.root / "opt/app")


def test_paths_of_the_image_become_paths_on_disk(context: Path) -> None:
    image = built(
        context,
        "FROM a\nCOPY package /srv/package\nCOPY requirements.txt /srv/r.txt\n"
        'ENV PYTHONPATH=/srv:/nowhere PATH=/srv DATA=/srv/r.txt\nWORKDIR /w\nCMD ["python3", "/srv/package/main.py"]\n',
    )
    words, environment = runnable(image)
    assert words == [sys.executable, str(image.root / "srv/package/main.py")]
    assert environment["DATA"] == str(image.root / "srv/r.txt")
    assert environment["PYTHONPATH"] == f"{image.root / 'w'}:{image.root / 'srv'}:/nowhere"
    assert "PATH" not in environment


def test_copy_follows_dockers_rules(context: Path) -> None:
    image = built(
        context,
        'FROM a\nWORKDIR /w\nCOPY package inside\nCOPY *.txt ./\nCOPY ["requirements.txt", "named.txt"]\n'
        'COPY requirements.txt package/main.py both/\nCMD ["x"]\n',
    )
    assert files(image) == [
        "w/both/main.py",
        "w/both/requirements.txt",
        "w/inside/__init__.py",
        "w/inside/main.py",
        "w/named.txt",
        "w/requirements.txt",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("COPY a b\n", "Dockerfile:1: COPY a b: the first instruction must be FROM"),
        ("FROM a\nFROM b\n", "second stage is not supported"),
        ("FROM\n", "names no image"),
        ("FROM a\nCOPY ../secret .\n", "outside the build context"),
        ("FROM a\nCOPY --from=b x y\n", "option --from=b is not supported"),
        ("FROM a\nCOPY only\n", "needs a source and a destination"),
        ("FROM a\nENV A=1 B\n", "'B' is not NAME=value"),
        ("FROM a\nONBUILD RUN x\n", "is not supported by the embedded AWS"),
    ],
)
def test_what_cannot_be_carried_out_is_said(context: Path, text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message.replace(".", r"\.")):
        built(context, text)
