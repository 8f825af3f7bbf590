"""The documentation: every code block works, every link leads somewhere, the site builds."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_rl import PPO, run
from lightning_rl.cli.arguments import Request, fit_documents, read_request
from lightning_rl.cli.checks import SECTIONS, check_document
from lightning_rl.cli.help import COMMANDS
from lightning_rl.cli.sweep_file import plan_sweep
from lightning_rl.cli.yaml_check import parse_document
from lightning_rl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")
SMALL_BUDGET = "total_env_steps=2_048"
BUDGETS = re.compile(r"total_env_steps=[\d_]{5,}")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [body for kind, body in BLOCK.findall(text) if kind == language]


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


def commands(page: Path) -> list[str]:
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    words = [line.split("#")[0].strip() for line in lines]
    return [line for line in words if line.startswith("lightning-rl ")]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run, such as the pages take for granted."""
    agent = PPO("CartPole-v1", total_env_steps=512, seed=1)
    trainer = {"eval_every_env_steps": 256, "eval_episodes": 1, "enable_progress_bar": False}
    result = run(agent, run={"root": str(tmp_path_factory.mktemp("logs"))}, trainer=trainer)
    return Path(str(result.directory))


@pytest.fixture
def place(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder where that run stands under the names that the pages use."""
    monkeypatch.chdir(tmp_path)
    for name in ("RUN", "logs/acrobot/first", "logs/ppo-cartpole-v1/first"):
        shutil.copytree(finished_run, tmp_path / name, symlinks=True)
    (tmp_path / "best.ckpt").symlink_to("RUN/checkpoints/best.ckpt")
    return tmp_path


@pytest.mark.filterwarnings("ignore:`max_epochs` was not set")
@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("page", with_blocks("python"), ids=name_of)
def test_python_blocks_run_in_order(page: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As they are written, but with a small budget; all blocks of a page share their names."""
    names: dict[str, Any] = {"__name__": "documentation"}
    for body in blocks(page, "python"):
        code = compile(BUDGETS.sub(SMALL_BUDGET, body), str(page), "exec")
        exec(code, names)
    assert not [record.message for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name_of)
def test_commands_are_understood(page: Path) -> None:
    """Commands, options and shipped configurations exist; nothing is run."""
    for line in commands(page):
        words = shlex.split(line.replace("…", ""))[1:]
        assert words[0] in {*COMMANDS, "--help", "--version"}, line
        if words[0] not in COMMANDS:
            continue
        request = read_request(words[0], words[1:])
        if words[0] == "fit":
            fit_documents(request)
        if words[0] == "sweep":
            plan_sweep(request.own.get("config", []), request.own.get("space", []), {})


@pytest.mark.parametrize("page", with_blocks("yaml"), ids=name_of)
def test_yaml_blocks_are_valid(page: Path) -> None:
    for body in blocks(page, "yaml"):
        document = parse_document(body, name_of(page))
        if document.data.keys() <= set(SECTIONS):
            check_document(document)
            fit_documents(Request("fit"), [document])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target, _ in LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if "://" not in target and target != "mailto"]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


def test_the_gallery_shows_small_pictures_under_commands_that_exist() -> None:
    """Links and commands are checked as on every page."""
    sections = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8").split("\n## ")[1:]
    shown = []
    for section in sections:
        (command,) = [body for kind, body in BLOCK.findall(section) if kind == "bash"]
        pictures = re.findall(r"!\[.+\]\((images/.+\.png)\)", section)
        assert pictures, section
        if command.startswith("python -m "):
            module = command.split()[2].replace(".", "/")
            assert (ROOT / f"{module}.py").is_file()
        shown += pictures
    folder = ROOT / "docs"
    assert all((folder / picture).stat().st_size < 150_000 for picture in shown)
    assert {path.name for path in (folder / "images").glob("*.png")} - {
        Path(picture).name for picture in shown
    } <= {"ppo_cartpole.png"}


def test_the_readme_has_the_speeds_of_the_last_measurement() -> None:
    readme, measured = ((ROOT / page).read_text() for page in ("README.md", "docs/performance.md"))
    speeds = re.findall(r"(\d{1,2},\d{3}) \(", readme.split("## Speed")[1].split("## ")[0])
    assert len(speeds) == 9
    table = measured.split("<!-- table: begin -->")[1].split("<!-- table: end -->")[0]
    assert [speed for speed in speeds if f"**{speed}**" not in table] == []


def test_a_wrong_command_would_be_noticed() -> None:
    with pytest.raises(ConfigError):
        fit_documents(read_request("fit", ["--model.learning_rat", "1"]))


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Strict: a page outside of the navigation, a broken link or a wrong docstring is an error."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-2_000:]
    assert "WARNING" not in built.stderr
    assert (tmp_path / "site" / "index.html").is_file()
