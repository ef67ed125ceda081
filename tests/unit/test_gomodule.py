"""Programs of pinned Go modules: where they are kept, and when they are built. End-to-end tests show them at work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hack.gomodule import BinariesError, GoPrograms, user_cache


@pytest.fixture
def programs(tmp_path: Path) -> GoPrograms:
    """Of a module without any program."""
    (tmp_path / "go.mod").write_text("module nothing\n\ngo 1.26.3\n")
    (tmp_path / "go.sum").write_text("")
    return GoPrograms(name="nothing", module=tmp_path, packages={}, estimate="no time")


def test_other_pins_have_another_place(programs: GoPrograms, tmp_path: Path) -> None:
    places = {programs.directory({"XDG_CACHE_HOME": "/cache"})}
    places.add(dataclasses.replace(programs, ldflags="-X version=2").directory({"XDG_CACHE_HOME": "/cache"}))
    places.add(dataclasses.replace(programs, tags="small").directory({"XDG_CACHE_HOME": "/cache"}))
    for name, content in (("go.sum", "a hash"), ("go.mod", "module nothing\n\ngo 1.26.4\n")):
        (tmp_path / name).write_text(content)
        places.add(programs.directory({"XDG_CACHE_HOME": "/cache"}))
    assert len(places) == 5
    assert {place.parent for place in places} == {user_cache({"XDG_CACHE_HOME": "/cache"})}


def test_a_program_of_our_own_is_built_again_when_it_changes_and_no_other_is(tmp_path: Path) -> None:
    """Else a change of a small program would cost everybody a new kube-apiserver."""
    (tmp_path / "ours" / "small").mkdir(parents=True)
    for file in ("go.mod", "go.sum", "small/main.go"):
        (tmp_path / "ours" / file).write_text("")
    large = GoPrograms(name="x", module=tmp_path / "ours", packages={"l": "k8s.io/large"}, estimate="an hour")
    small = dataclasses.replace(large, packages={"s": "ours/small"})
    before = large.directory(), small.directory()
    (tmp_path / "ours" / "small" / "main.go").write_text("package main")
    assert large.directory() == before[0]
    assert small.directory() != before[1]


def test_what_is_there_is_not_built(programs: GoPrograms, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    programs.directory(environment).mkdir(parents=True)
    assert programs.find_or_build(environment) == programs.directory(environment)
    assert capsys.readouterr().err == ""


def test_a_module_that_does_not_say_which_go_it_wants_is_an_error(programs: GoPrograms, tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module nothing\n")
    with pytest.raises(BinariesError, match=r"go\.mod has no line `go X\.Y\.Z`"):
        programs.find_or_build({"XDG_CACHE_HOME": str(tmp_path)})
    assert not programs.directory({"XDG_CACHE_HOME": str(tmp_path)}).exists()
