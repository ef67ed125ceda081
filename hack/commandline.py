"""docs/cli.md, docs/checks.md and the schemas of `-o json`: what the commands and their types say of themselves.

python -m hack.commandline writes them.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from controller import cli as package
from controller.cli import plugin
from controller.cli.checks import CHECKS
from controller.cli.findings import FindingList
from controller.cli.secretstatus import ItemList
from controller.cli.targetplan import EntryList

DOCS = Path(__file__).parents[1] / "docs"
SCHEMAS = {"status": ItemList, "findings": FindingList, "targets": EntryList}
"""By the beginning of their names, beside the commands; each only grows."""

_CLI = """\
# The command line

    pipx install 'pull-secret-updater[cli]'
    kubectl pull-secrets status --all-namespaces

The package brings `pull-secret-updater`, and `kubectl-pull_secrets`, which makes `kubectl pull-secrets ...` with the
same commands. Flags stand after the plugin's name. The controller's image has it too, with the controller's own rights:

    kubectl exec -n pull-secret-updater deployment/controller -- pull-secret-updater status --all-namespaces

Commands read metadata only, never a Secret's data. For who may not list Secrets they say so, look at those called
`pull-secret`, and show the controller's Events. They print data on standard output and all else on standard error.

## Exit codes

| code | |
|---|---|
| 0 | all is good |
| 1 | something is wrong |
| 2 | the command line, the kubeconfig or a configuration can't be used |
| 3 | nothing wrong was found, but something could not be looked at |
| 4 | a wait timed out |

They are the same for every `-o`. Of several, 1 wins over 4, and 4 over 3. `check-config` and `run` exit with 1 for a
configuration that is not valid.

## States

`status` shows one line for each identity that a Secret asks for, the worst first.

| state | |
|---|---|
| Expired | the token in place has run out |
| Empty | no token is in place |
| Denied | the namespace may not use the identity |
| Error | something is in the way that somebody has to mend; the last column says what |
| OverLimit | the namespace has more Secrets than it may |
| Contested | somebody keeps reverting what the controller writes |
| Foreign | an entry of somebody else keeps kubelets from reading the Secret |
| Unknown | the Secret may not be read; the last column is the controller's latest Event |
| Due | a new token is due |
| Paused | the annotation `paused` stops the controller |
| Valid | the token is valid, and none is due |

What `-o json` and `-o yaml` print is described by the JSON Schemas that are installed in `controller/cli`:
`status.schema.json`, `findings.schema.json` (of `explain`, `doctor`, `refresh`, `pause`, `resume` and `release`), and
`targets.schema.json`. They only grow.
"""

_CHECKS = """\
# The checks of `doctor`

`kubectl pull-secrets doctor` looks at all of these, whatever it finds; with `--pre` at those marked so, which need no
installation. `?` is what could not be looked at, which is never good: the exit code is then 3, or 1 if something else
is wrong.
"""


def cli() -> str:
    """The text of docs/cli.md."""
    return "\n".join([_CLI, *_helps(plugin, None)])


def checks() -> str:
    """The text of docs/checks.md."""
    return "\n".join([_CHECKS, *_sections()])


def schema(name: str) -> str:
    """The text of a schema."""
    return json.dumps(msgspec.json.schema(SCHEMAS[name]), indent=2) + "\n"


def _sections() -> Iterator[str]:
    for group, members in itertools.groupby(CHECKS, key=lambda check: check.group):
        yield f"## {group}\n"
        for check in members:
            title = check.title[0].upper() + check.title[1:] + (" (`--pre`)" if check.pre else "")
            yield f"### {check.id}\n\n**{title}.** {check.why}\n\nCure: {check.cure}.\n"


def _helps(command: click.Command, parent: click.Context | None) -> Iterator[str]:
    """The help of each command of a group, and of theirs."""
    context = click.Context(
        command,
        info_name="kubectl pull-secrets" if parent is None else command.name,
        parent=parent,
        max_content_width=100,
        terminal_width=100,
        help_option_names=["-h", "--help"],
    )
    if parent is not None:
        name = context.command_path.removeprefix("kubectl pull-secrets ")
        yield f"## {name}\n\n```\n{command.get_help(context).rstrip()}\n```\n"
    for _, each in sorted(command.commands.items()) if isinstance(command, click.Group) else ():
        yield from _helps(each, context)


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(cli())
    (DOCS / "checks.md").write_text(checks())
    for name in SCHEMAS:
        (Path(package.__file__).parent / f"{name}.schema.json").write_text(schema(name))
