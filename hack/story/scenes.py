"""The scenes, in their order. Each shows what it does and claims what it saw; a claim that is untrue ends the story."""

import os
import subprocess
import time
from itertools import pairwise

from hack.localcluster import kubectl
from hack.standin.mounted import USER
from hack.story.screen import Screen, UntrueError, clock, life
from hack.story.secret import PREFIX, Credential, Version
from hack.story.stage import TENANT, TOKEN_SECONDS, Stage

IDENTITY = "c95870ebffa72a258df087ea727ee92daf177e29/f067a9080d45a098"
OTHER_IDENTITY = "c95870ebffa72a258df087ea727ee92daf177e29/0123456789abcdef"
CREATE = (
    "kubectl create secret generic pull-secret --type=kubernetes.io/dockerconfigjson "
    "--from-literal=.dockerconfigjson='{}'"
)
ANNOTATE = f"kubectl annotate secret pull-secret {PREFIX}identity={IDENTITY}"
REFRESHES = 3
FILL_SECONDS = 10.0
"""How long to wait for a fill before it counts as failed; it takes some 30 ms on a machine at rest."""
SHOWN_METRICS = tuple(
    f"pull_secret_updater_{name}"
    for name in ("managed_claims", "mints_total", "refreshes_total", "expired_claims", "expired_seconds_total")
)


def two_commands(stage: Stage, screen: Screen) -> None:
    """The whole of the API, typed as it stands in the README."""
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
        f"filled after {milliseconds:.0f} ms",
        holds=annotated.credential is None and 0 < milliseconds < FILL_SECONDS * 1000,
        detail="from kubectl's write to the controller's, both seen on one watch",
    )
    screen.claim(
        f"a token for this identity, to pull from cgr.dev, good for {TOKEN_SECONDS} s",
        holds=_is_good(credential, stage) and credential.expires_at - credential.issued_at == TOKEN_SECONDS,
        detail=f"until {clock(credential.expires_at)}",
    )
    screen.claim(
        "minted for the controller's ServiceAccount, whose token the issuer verified",
        holds=exchange.subject == USER and exchange.status == 200,
    )


def somebody_else(stage: Stage, screen: Screen) -> None:
    """All rights on Secrets are no right to an identity."""
    screen.heading("Somebody else tries")
    screen.say(f"{TENANT} may do everything with the Secrets of this namespace, but was not given the identity to use.")
    may = _type(stage, screen, f"kubectl auth can-i '*' secrets --as={TENANT}")
    refused = _type(
        stage,
        screen,
        f"kubectl annotate secret pull-secret --overwrite {PREFIX}identity={OTHER_IDENTITY} --as={TENANT}",
        succeeds=False,
    )
    screen.claim(
        "refused by the admission policy",
        holds=may.strip() == "yes"
        and "ValidatingAdmissionPolicy 'pull-secret-updater-use-identity'" in refused
        and f"you may not use {OTHER_IDENTITY}" in refused
        and stage.watch.versions()[-1].identity == IDENTITY,
    )


def it_stays_valid(stage: Stage, screen: Screen) -> None:
    """Three lives of a token, each replaced before its end, in place."""
    screen.heading("It stays valid")
    for number in range(1, REFRESHES + 1):
        refresh(stage, screen, number)
    created, _annotated, *versions = stage.watch.versions()
    screen.claim(
        f"still the same Secret, UID {created.nature[0]}",
        holds=all(version.nature == created.nature for version in versions),
        detail=f"with its token number {len(stage.watch.filled())}",
    )
    screen.claim(
        "since it was first filled, there was no moment without a valid token in it",
        holds=all(new.seen_at < _credential(old).expires_at for old, new in pairwise(versions))
        and time.time() < _credential(versions[-1]).expires_at,
    )


def refresh(stage: Stage, screen: Screen, number: int) -> None:
    """Wait for the refresh of this number, counted from 1, and show how early it came. Raises UntrueError."""
    old = _credential(stage.watch.filled()[number - 1])
    with screen.countdown(begins=old.issued_at, ends=old.expires_at) as draw:
        while len(stage.watch.filled()) <= number and time.time() < old.expires_at:
            draw()
    if len(stage.watch.filled()) <= number:
        screen.claim(f"refresh {number} comes before the token expires", holds=False)
    version = stage.watch.filled()[number]
    new = _credential(version)
    early = old.expires_at - version.seen_at
    bar = life(version.seen_at, begins=old.issued_at, ends=old.expires_at)
    screen.claim(
        f"refresh {number}, {early:4.1f} s before expiry; the new token ends at {clock(new.expires_at)}",
        holds=early > 0 and new.expires_at > old.expires_at and _is_good(new, stage),
        detail=bar,
    )


def what_an_operator_sees(stage: Stage, screen: Screen) -> None:
    """Events and metrics."""
    screen.heading("What an operator sees")
    events = _type(stage, screen, "kubectl events --for secret/pull-secret")
    screen.claim("the first token is told by an Event, refreshes are not", holds=events.count("TokenWritten") == 1)
    metrics = stage.controller.metrics()
    screen.say("Of /metrics, without the counters that are 0:")
    lines = (line for line in metrics.text.splitlines() if line.startswith(SHOWN_METRICS))
    screen.answer("\n".join(line for line in lines if not ("{" in line and line.endswith(" 0.0"))))
    scheduled = metrics.value("refreshes_total", result="written", reason="scheduled")
    screen.claim(
        f"one token minted for each write, {1 + scheduled:.0f} in all; none was refused, none expired",
        holds=scheduled >= REFRESHES
        and metrics.value("refreshes_total", result="written") == 1 + scheduled
        and metrics.value("mints_total") == metrics.value("mints_total", result="Minted") == 1 + scheduled
        and metrics.value("expired_claims") == metrics.value("expired_seconds_total") == 0,
    )


def look_around(stage: Stage, screen: Screen) -> None:
    """Say how, and show each new token, until somebody ends it."""
    screen.heading("Look around, until Ctrl-C takes all of it down")
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
            f"{clock(time.time())} a new token, good until {clock(_credential(stage.watch.filled()[-1]).expires_at)}"
        )


def _credential(version: Version) -> Credential:
    credential = version.credential
    if credential is None:
        raise UntrueError("the Secret holds no token any more")
    return credential


def _is_good(credential: Credential, stage: Stage) -> bool:
    """Whether the issuer minted it, for the identity and the registry, and it is of the form that the registry asks."""
    return credential.token in stage.issuer.tokens and (credential.user, credential.subject, credential.audience) == (
        "_token",
        IDENTITY,
        "cgr.dev",
    )


def _type(stage: Stage, screen: Screen, line: str, *, succeeds: bool = True) -> str:
    """Run the line in a shell, word for word; show it and what it says. Raises UntrueError if it ends otherwise."""
    screen.command(line)
    # kubectl of the virtual environment first: the one that hack/requirements pins.
    path = f"{kubectl().parent}:{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(stage.kubeconfig), "PATH": path}
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
    screen.answer(done.stdout + done.stderr)
    if (done.returncode == 0) is not succeeds:
        raise UntrueError(f"ended with {done.returncode}: {line}")
    return done.stdout + done.stderr
