"""The README names real commands, and its first two blocks are the set-up that CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from fhrt.cli.main import _app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_two_fenced_blocks_restore_a_photograph_and_pass_the_tests() -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert [kind for kind, _ in blocks[:2]] == ["sh", "sh"]
    assert "fhrt demo" in blocks[0][1]
    assert "pytest" in blocks[1][1]
    for _, text in blocks[:2]:
        assert text.startswith("python3 -m venv"), "many systems refuse a bare pip install"


def test_every_command_and_option_that_the_readme_names_exists() -> None:
    group = typer.main.get_command(_app())
    commands = group.commands  # type: ignore[attr-defined]
    named = re.findall(r"(?:^\$ |\| |; |/)fhrt (\w+)([^#\n;|]*)", README, re.MULTILINE)
    assert len(named) > 8
    for command, rest in named:
        assert command in commands, command
        called, words = commands[command], rest.split()
        if words and words[0] in getattr(called, "commands", {}):
            called = called.commands[words[0]]
        options = {name for parameter in called.params for name in parameter.opts}
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest):
            assert option in options, f"fhrt {command} {option}"


def test_every_linked_file_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
