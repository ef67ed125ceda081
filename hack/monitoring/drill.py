"""The alerts on purpose, in a script whose outcome is known; the command line of hack/drill."""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from hack.monitoring.picture import draw
from hack.story.screen import Screen, UntrueError
from hack.story.stage import Stage, set_up
from testing.behaviour import Behaviour
from testing.cluster import Cluster
from testing.prometheus import Prometheus

PREFIX = "pull-secret-updater.chainguard.dev/"
LIFE_SECONDS = 60
NAMESPACES = 6
LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Scene:
    """What happens, for how long, and which alerts come up and which end by it, each in order."""

    title: str
    act: Callable[[], None]
    seconds: float
    raised: Sequence[str] = ()
    resolved: Sequence[str] = ()


def _scenes(stage: Stage, prometheus: Prometheus) -> list[Scene]:
    healthy, down = Behaviour(lifetime_seconds=LIFE_SECONDS), Behaviour(status=503)

    def crash() -> None:
        stage.controller.kill()
        started = stage.restart()
        prometheus.scrape(started.url.removeprefix("http://"))

    outage = ("PullSecretLifeCritical", "PullSecretLifeLow", "PullSecretExpired")
    return [
        Scene(f"tokens of {LIFE_SECONDS} s, and a healthy issuer", lambda: None, 60),
        Scene("the issuer is down", lambda: stage.issuer.behave("*", down), 150, raised=outage),
        Scene("the issuer is back", lambda: stage.issuer.behave("*", healthy), 60, resolved=outage),
        Scene("the controller is killed, and another starts", crash, 60),
    ]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Draw every panel of the dashboard from Prometheus' own answers.",
)
def main(*, picture: Path | None) -> None:
    """Raise the alerts on purpose: a real Prometheus, the real controller, and an issuer that goes down and comes back.

    Prints what was raised and resolved next to what should have been, and fails if they differ. Takes 6 minutes.
    """
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="pull-secret-updater-drill-") as directory, ExitStack() as stack:
        screen.heading("Setting up")
        stage = stack.enter_context(set_up(screen, kubeconfig=None, directory=Path(directory)))
        target = stage.controller.url.removeprefix("http://")
        prometheus = stack.enter_context(Prometheus(directory=Path(directory) / "prometheus", target=target))
        stage.issuer.behave("*", Behaviour(lifetime_seconds=LIFE_SECONDS))
        _ask(stage.cluster)
        began = time.time()
        try:
            for scene in _scenes(stage, prometheus):
                _play(scene, screen, prometheus, began=began)
        except UntrueError as error:
            click.echo(f"hack/drill: {error}", err=True)
            sys.exit(1)
        if picture is not None:
            draw(picture, prometheus=prometheus, began=began, ended=time.time())


def _ask(cluster: Cluster) -> None:
    for number in range(NAMESPACES):
        namespace = f"drill-{number}"
        cluster.api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
        identity = f"{secrets.token_hex(20)}/{secrets.token_hex(8)}"
        secret = {
            "metadata": {"name": "pull-secret", "annotations": {f"{PREFIX}identity": identity}},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": "{}"},
        }
        cluster.api.post(f"/api/v1/namespaces/{namespace}/secrets", secret)


def _play(scene: Scene, screen: Screen, prometheus: Prometheus, *, began: float) -> None:
    """Raises UntrueError if other alerts than it says come up or end."""
    screen.heading(scene.title)
    firing = set(prometheus.firing())
    scene.act()
    raised: list[str] = []
    resolved: list[str] = []
    ends_at = time.time() + scene.seconds
    while time.time() < ends_at:
        time.sleep(LOOK_SECONDS)
        now = set(prometheus.firing())
        for change, names, told in (("raised", now - firing, raised), ("resolved", firing - now, resolved)):
            for name in sorted(names):
                screen.say(f"{_clock(time.time() - began)}  {change:8}  {name}")
                told.append(name)
        firing = now
    for change, told, expected in (("raised", raised, scene.raised), ("resolved", sorted(resolved), scene.resolved)):
        in_order = list(expected) if change == "raised" else sorted(expected)
        screen.claim(
            f"{_clock(time.time() - began)}  {change} as it should be: {', '.join(in_order) or 'nothing'}",
            holds=told == in_order,
            detail="" if told == in_order else f"but it was {', '.join(told) or 'nothing'}",
        )


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


if __name__ == "__main__":
    main(prog_name="hack/drill")
