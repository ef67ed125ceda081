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
from hack.story import scenes
from hack.story.screen import Screen, UntrueError
from hack.story.stage import StageError, set_up
from testing.api import ApiError
from testing.cluster import ClusterError
from testing.controller import ControllerError

TITLE = "pull-secret-updater: two commands fill a Secret and keep it valid"
EXPECTED = (ApiError, BinariesError, ClusterError, ControllerError, ControlPlaneError, StageError, UntrueError)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_LINES = 10


class InterruptedStory(BaseException):
    """A signal interrupted the demo. Not an Exception, so that nothing on the way out treats it as a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--keep", is_flag=True, help="Keep everything running until Ctrl-C, so that you can look around.")
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Use the cluster of this file's current context, as its admin; the demo removes what it applies.",
)
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.svg",
    help="Save the output as a picture.",
)
def main(*, keep: bool, kubeconfig: Path | None, record: Path | None) -> None:
    """Show, on a real Kubernetes API server, how two commands fill a Secret and keep it valid. Takes about 70 seconds.

    Without --kubeconfig, the demo runs etcd and kube-apiserver on this machine, and stops them at the end.
    """
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="pull-secret-updater-demo-") as directory:
        try:
            _run(screen, Path(directory), keep=keep, kubeconfig=kubeconfig, record=record)
        except InterruptedStory as interruption:
            click.echo("hack/demo: interrupted; it has stopped what it started, and removed what it applied", err=True)
            sys.exit(128 + interruption.number)
        except Exception as error:
            _explain(error, Path(directory))
            sys.exit(1)


def _run(screen: Screen, directory: Path, *, keep: bool, kubeconfig: Path | None, record: Path | None) -> None:
    began = time.monotonic()
    screen.heading("Setting up")
    screen.say("The Kubernetes API server and the controller are real; only the token issuer is a stand-in.")
    with set_up(screen, kubeconfig=kubeconfig, directory=directory) as stage:
        scenes.two_commands(stage, screen)
        scenes.somebody_else(stage, screen)
        scenes.it_stays_valid(stage, screen)
        scenes.what_an_operator_sees(stage, screen)
        screen.heading(f"Done, in {time.monotonic() - began:.0f} s")
        if record is not None:
            screen.save(record, title=TITLE)
        if keep:
            with suppress(InterruptedStory):
                scenes.look_around(stage, screen)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Leave, cleaning up on the way, and let nothing interrupt that."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise InterruptedStory(number)


def _explain(error: Exception, directory: Path) -> None:
    """Print what went wrong, and keep the controller's log, which has no credentials, beyond its directory."""
    written = directory / "controller" / "controller.log"
    known = isinstance(error, EXPECTED)
    what = str(error) if known else "".join(traceback.format_exception(error))
    if isinstance(error, ControllerError):
        what = what.partition(":\n")[0]  # the rest is its log; the last lines follow below
    click.echo(f"\nhack/demo failed: {what}", err=True)
    if written.exists():
        kept = Path(tempfile.gettempdir()) / f"{directory.name}.log"
        shutil.copy(written, kept)
        last = "\n".join(written.read_text(errors="replace").splitlines()[-LAST_LINES:])
        click.echo(f"the controller's log is in {kept}; its last lines:\n{last}", err=True)


if __name__ == "__main__":
    main(prog_name="hack/demo")
