"""How long a scrape takes with few and with many claims, and what counting them costs in memory; without a cluster.

python -m hack.figures.scrape
"""

import time
import tracemalloc

from prometheus_client import generate_latest

from controller.core.fights import ContestedClaims
from controller.core.model import Claim, ManagedSecret, Ref
from controller.core.policy import Policy, Profile
from controller.core.schedule import RefreshWindow
from controller.core.store import Store
from controller.observe.counts import StateCounter
from controller.observe.metrics import Metrics
from controller.providers import SHAPES

HOUR = 3600
NOW = 1_700_000_000
SCRAPES = 50


def main() -> None:
    """Print a line per number of claims."""
    for number in (10, 10_000, 100_000):
        milliseconds, mebibytes = scrape(number)
        print(f"{number:7} claims: a scrape takes {milliseconds:.2f} ms; counting them takes {mebibytes:.1f} MiB")


def scrape(number: int) -> tuple[float, float]:
    """The median of a scrape in milliseconds, and the memory for the counts in MiB."""
    store, contested = Store(), ContestedClaims()
    policy = Policy([Profile("chainguard", "chainguard", ("cgr.dev",))], shapes=SHAPES, window=RefreshWindow())
    counter = StateCounter(store=store, policy=policy, contested=contested, now=lambda: NOW)
    metrics = Metrics(providers=["chainguard"], policies=[], relist_reasons=[])
    metrics.watch_states(counter.count, secrets=None)
    for index in range(number):
        store.put(_secret(index))
    tracemalloc.start()
    for secret in store:
        for view in secret.views():
            counter.placed(view, policy.decide(view, NOW, None))
    mebibytes = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    taken = []
    for _ in range(SCRAPES):
        began = time.perf_counter()
        generate_latest(metrics.registry)
        taken.append(time.perf_counter() - began)
    return sorted(taken)[SCRAPES // 2] * 1000, mebibytes


def _secret(index: int) -> ManagedSecret:
    """One that nobody has filled yet or that holds a token, each with an end of its own."""
    claim = Claim(
        name="",
        identity=f"{index % 50:040x}/{0:016x}",
        provider=None,
        registries=None,
        service_account=None,
        issued_at=NOW - index % (HOUR // 2),
        expires_at=NOW - index % (HOUR // 2) + HOUR,
        issued_for="-",
        fingerprint="-",
        managed_hosts=("cgr.dev",),
        refreshed_for=None,
        error=None,
        present_fingerprint="-",
        credential_exp=None,
    )
    return ManagedSecret(
        ref=Ref(f"namespace-{index}", "pull-secret"),
        uid=str(index),
        resource_version=str(index),
        right_type=True,
        immutable=False,
        readable=True,
        hosts=("cgr.dev",),
        broken_hosts=(),
        unreadable=(),
        plain=True,
        paused=None,
        refresh=None,
        claims=(claim,),
    )


if __name__ == "__main__":
    main()
