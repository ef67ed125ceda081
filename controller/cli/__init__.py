"""The command line: a command a file.

As `pull-secret-updater` it has all commands. As the plugin `kubectl-pull_secrets`, which makes `kubectl pull-secrets`,
it has all but `run`, which is for the controller's Pod.
"""

from __future__ import annotations

import click

from controller import __version__
from controller.cli.check_config import check_config
from controller.cli.completion import answer_kubectl, completion
from controller.cli.doctor import doctor
from controller.cli.explain import explain
from controller.cli.migrate import migrate
from controller.cli.pause import pause
from controller.cli.refresh import refresh
from controller.cli.release import release
from controller.cli.resume import resume
from controller.cli.run import run
from controller.cli.status import status
from controller.cli.targets import targets
from controller.cli.version import version

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_COMMANDS = (
    check_config,
    status,
    explain,
    doctor,
    refresh,
    pause,
    resume,
    release,
    targets,
    migrate,
    completion,
    version,
)


@click.group(context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="pull-secret-updater")
def main() -> None:
    """Keeps image pull Secrets filled with short-lived registry tokens.

    Every command exits with 0 if all is good, 1 if something is wrong, 2 if it can't be run as it was given, 3 if
    nothing wrong was found but something could not be looked at, and 4 if a wait timed out.
    """


@click.group("kubectl pull-secrets", context_settings=_SETTINGS, help=main.help)
@click.version_option(__version__, prog_name="kubectl pull-secrets")
def plugin() -> None:
    """See main."""


main.add_command(run)
for each in _COMMANDS:
    main.add_command(each)
    plugin.add_command(each)


def complete() -> None:
    """The program by which kubectl completes the plugin."""
    answer_kubectl(plugin)
