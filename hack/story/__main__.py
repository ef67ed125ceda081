"""The command line of hack/demo."""

import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType

import click

from hack.localcluster import BinariesError, ControlPlaneError
from hack.standin.api import ApiError
from hack.standin.cluster import ClusterError
from hack.standin.controller import ControllerError
from hack.story import scenes
from hack.story.screen import Screen, UntrueError
from hack.story.stage import StageError, set_up

TITLE = "pull-secret-updater: two commands fill a Secret and keep it valid"
EXPECTED = (ApiError, BinariesError, ClusterError, ControllerError, ControlPlaneError, StageError, UntrueError)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_LINES = 10


class InterruptedStory(BaseException):
    """A signal asked for the end. Not an Exception: nothing on the way out may take it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--keep", is_flag=True, help="Leave it running to look around, until Ctrl-C.")
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Tell it on the cluster of this file's current context, as its admin; what is applied there is removed again.",
)
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.svg",
    help="Save what was seen as a picture.",
)
def main(*, keep: bool, kubeconfig: Path | None, record: Path | None) -> None:
    """Show on a real Kubernetes API server how two commands fill a Secret and keep it valid. Takes about 70 seconds.

    Without --kubeconfig it starts etcd and kube-apiserver on this machine, and ends them again.
    """
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="pull-secret-updater-demo-") as directory:
        try:
            _tell(screen, Path(directory), keep=keep, kubeconfig=kubeconfig, record=record)
        except InterruptedStory as interruption:
            click.echo("hack/demo: interrupted; what it started is ended, what it applied is removed", err=True)
            sys.exit(128 + interruption.number)
        except Exception as error:
            _explain(error, Path(directory))
            sys.exit(1)


def _tell(screen: Screen, directory: Path, *, keep: bool, kubeconfig: Path | None, record: Path | None) -> None:
    began = time.monotonic()
    screen.heading("The stage")
    screen.say("A real Kubernetes API server and the real controller; only the token issuer is a stand-in.")
    with set_up(screen, kubeconfig=kubeconfig, directory=directory) as stage:
        scenes.two_commands(stage, screen)
        scenes.somebody_else(stage, screen)
        scenes.it_stays_valid(stage, screen)
        scenes.what_an_operator_sees(stage, screen)
        screen.heading(f"That was all of it, in {time.monotonic() - began:.0f} s")
        if record is not None:
            screen.save(record, title=TITLE)
        if keep:
            with suppress(InterruptedStory):
                scenes.look_around(stage, screen)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Leave through everything that cleans up, and don't let that be interrupted."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise InterruptedStory(number)


def _explain(error: Exception, directory: Path) -> None:
    """What went wrong, and the controller's log, which has no credential in it and outlives its directory."""
    written = directory / "controller" / "controller.log"
    known = isinstance(error, EXPECTED)
    what = str(error) if known else "".join(traceback.format_exception(error))
    if isinstance(error, ControllerError):
        what = what.partition(":\n")[0]  # the rest is its log, of which the last lines follow
    click.echo(f"\nhack/demo failed: {what}", err=True)
    if written.exists():
        kept = Path(tempfile.gettempdir()) / f"{directory.name}.log"
        shutil.copy(written, kept)
        last = "\n".join(written.read_text(errors="replace").splitlines()[-LAST_LINES:])
        click.echo(f"the controller's log is {kept}; its last lines:\n{last}", err=True)


if __name__ == "__main__":
    main(prog_name="hack/demo")
