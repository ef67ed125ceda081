"""The scenes, in order. Each shows what it does, and then claims what it saw; a false claim ends the demo."""

import os
import subprocess
import time
from itertools import pairwise

from hack.localcluster import kubectl
from hack.story.screen import Screen, UntrueError, clock, life
from hack.story.secret import PREFIX, Credential, Version
from hack.story.stage import TENANT, TOKEN_SECONDS, Stage
from testing.mounted import USER

IDENTITY = "c95870ebffa72a258df087ea727ee92daf177e29/f067a9080d45a098"
OTHER_IDENTITY = "c95870ebffa72a258df087ea727ee92daf177e29/0123456789abcdef"
CREATE = (
    "kubectl create secret generic pull-secret --type=kubernetes.io/dockerconfigjson "
    "--from-literal=.dockerconfigjson='{}'"
)
ANNOTATE = f"kubectl annotate secret pull-secret {PREFIX}identity={IDENTITY}"
REFRESHES = 3
FILL_SECONDS = 10.0
"""How long to wait before a fill counts as failed; it takes some 30 ms on an idle machine."""
SHOWN_METRICS = tuple(
    f"pull_secret_updater_{name}"
    for name in ("managed_claims", "mints_total", "refreshes_total", "expired_claims", "expired_seconds_total")
)


def two_commands(stage: Stage, screen: Screen) -> None:
    """The whole API, typed as in the README."""
    screen.heading("Two commands")
    _type(stage, screen, CREATE)
    _type(stage, screen, ANNOTATE)
    deadline = time.monotonic() + FILL_SECONDS
    while not stage.watch.filled() and time.monotonic() < deadline:
        time.sleep(0.01)
    if not stage.watch.filled():
        screen.claim(f"the Secret is filled within {FILL_SECONDS:.0f} s", holds=False)
    filled = stage.watch.filled()[0]
    annotated = next(version for version in stage.watch.versions() if version.identity)
    milliseconds = (filled.seen_at_monotonic - annotated.seen_at_monotonic) * 1000
    (exchange,) = stage.issuer.exchanges(IDENTITY)
    credential = _credential(filled)
    screen.claim(
        f"the controller filled the Secret after {milliseconds:.0f} ms",
        holds=annotated.credential is None and 0 < milliseconds < FILL_SECONDS * 1000,
        detail="between kubectl's write and its own, on one watch",
    )
    screen.claim(
        f"the Secret has a token of this identity to pull from cgr.dev, valid for {TOKEN_SECONDS} s",
        holds=_is_good(credential, stage) and credential.expires_at - credential.issued_at == TOKEN_SECONDS,
        detail=f"until {clock(credential.expires_at)}",
    )
    screen.claim(
        "the issuer verified the controller's ServiceAccount token before it minted this one",
        holds=exchange.subject == USER and exchange.status == 200,
    )


def somebody_else(stage: Stage, screen: Screen) -> None:
    """All rights on Secrets give no right to an identity."""
    screen.heading("Someone else tries another identity")
    screen.say(f"{TENANT} has all rights on Secrets in this namespace, but may not use the identity below.")
    may = _type(stage, screen, f"kubectl auth can-i '*' secrets --as={TENANT}")
    refused = _type(
        stage,
        screen,
        f"kubectl annotate secret pull-secret --overwrite {PREFIX}identity={OTHER_IDENTITY} --as={TENANT}",
        succeeds=False,
    )
    screen.claim(
        "the admission policy refused it",
        holds=may.strip() == "yes"
        and "ValidatingAdmissionPolicy 'pull-secret-updater-use-identity'" in refused
        and f"you may not use {OTHER_IDENTITY}" in refused
        and stage.watch.versions()[-1].identity == IDENTITY,
    )


def it_stays_valid(stage: Stage, screen: Screen) -> None:
    """Three tokens, each replaced in place before it expires."""
    screen.heading("It stays valid")
    for number in range(1, REFRESHES + 1):
        refresh(stage, screen, number)
    created, _annotated, *versions = stage.watch.versions()
    screen.claim(
        f"it is still the same Secret, UID {created.nature[0]}",
        holds=all(version.nature == created.nature for version in versions),
        detail=f"now with token number {len(stage.watch.filled())}",
    )
    screen.claim(
        "since it was first filled, it has always had a valid token",
        holds=all(new.seen_at < _credential(old).expires_at for old, new in pairwise(versions))
        and time.time() < _credential(versions[-1]).expires_at,
    )


def refresh(stage: Stage, screen: Screen, number: int) -> None:
    """Wait for this refresh, counted from 1, and show how early it came. Raises UntrueError."""
    old = _credential(stage.watch.filled()[number - 1])
    with screen.countdown(begins=old.issued_at, ends=old.expires_at) as draw:
        while len(stage.watch.filled()) <= number and time.time() < old.expires_at:
            draw()
    if len(stage.watch.filled()) <= number:
        screen.claim(f"refresh {number} came before the token expired", holds=False)
    version = stage.watch.filled()[number]
    new = _credential(version)
    early = old.expires_at - version.seen_at
    bar = life(version.seen_at, begins=old.issued_at, ends=old.expires_at)
    screen.claim(
        f"refresh {number} came {early:4.1f} s before expiry; the new token expires at {clock(new.expires_at)}",
        holds=early > 0 and new.expires_at > old.expires_at and _is_good(new, stage),
        detail=bar,
    )


def what_an_operator_sees(stage: Stage, screen: Screen) -> None:
    """Events and metrics."""
    screen.heading("What an operator sees")
    events = _type(stage, screen, "kubectl events --for secret/pull-secret")
    screen.claim("the first token has an Event, refreshes don't", holds=events.count("TokenWritten") == 1)
    metrics = stage.controller.metrics()
    screen.say("From /metrics, without counters that are 0:")
    lines = (line for line in metrics.text.splitlines() if line.startswith(SHOWN_METRICS))
    screen.answer("\n".join(line for line in lines if not ("{" in line and line.endswith(" 0.0"))))
    scheduled = metrics.value("refreshes_total", result="written", reason="scheduled")
    screen.claim(
        f"{1 + scheduled:.0f} tokens were minted, one for each write; none was refused, none expired",
        holds=scheduled >= REFRESHES
        and metrics.value("refreshes_total", result="written") == 1 + scheduled
        and metrics.value("mints_total") == metrics.value("mints_total", result="Minted") == 1 + scheduled
        and metrics.value("expired_claims") == metrics.value("expired_seconds_total") == 0,
    )


def look_around(stage: Stage, screen: Screen) -> None:
    """Show how to look around, and report each new token, until the user stops it."""
    screen.heading("Look around; Ctrl-C stops everything")
    screen.command(f"export KUBECONFIG={stage.kubeconfig} PATH={kubectl().parent}:$PATH")
    screen.command("kubectl get secret pull-secret -o jsonpath='{.metadata.annotations}'")
    screen.command("kubectl events --for secret/pull-secret --watch")
    screen.command(f'kubectl annotate secret pull-secret --overwrite {PREFIX}refresh="$(date +%s)"')
    screen.command(f"curl {stage.controller.url}/metrics")
    screen.command(f"tail -f {stage.controller.log_file}")
    while True:
        count = len(stage.watch.filled())
        latest = _credential(stage.watch.filled()[-1])
        with screen.countdown(begins=latest.issued_at, ends=latest.expires_at) as draw:
            while len(stage.watch.filled()) == count:
                draw()
        screen.say(
            f"{clock(time.time())} a new token, valid until {clock(_credential(stage.watch.filled()[-1]).expires_at)}"
        )


def _credential(version: Version) -> Credential:
    credential = version.credential
    if credential is None:
        raise UntrueError("the Secret no longer has a token")
    return credential


def _is_good(credential: Credential, stage: Stage) -> bool:
    """Whether the issuer minted it for the identity and the registry, with the user that the registry expects."""
    return credential.token in stage.issuer.tokens and (credential.user, credential.subject, credential.audience) == (
        "_token",
        IDENTITY,
        "cgr.dev",
    )


def _type(stage: Stage, screen: Screen, line: str, *, succeeds: bool = True) -> str:
    """Run the line in a shell, word for word, and show its output. Raises UntrueError unless it ends as expected."""
    screen.command(line)
    # The virtual environment's kubectl first: hack/requirements pins it.
    path = f"{kubectl().parent}:{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(stage.kubeconfig), "PATH": path}
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
    screen.answer(done.stdout + done.stderr)
    if (done.returncode == 0) is not succeeds:
        raise UntrueError(f"exit code {done.returncode} from: {line}")
    return done.stdout + done.stderr
