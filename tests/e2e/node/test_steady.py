"""Ten minutes of tokens that live for one."""

from collections.abc import Callable

import pytest

from tests.e2e.node.conftest import COUNT
from tests.e2e.support.incluster import InCluster
from tests.e2e.support.pods import Outcome, Stream
from tests.e2e.support.tenant import Tenant

TOKEN_SECONDS = 60

pytestmark = pytest.mark.timeout(900)


def test_sixty_pods_in_ten_minutes_all_pull_with_tokens_of_one_minute(
    world: InCluster, steady: tuple[Tenant, Stream], outcomes: list[Outcome], tell: Callable[[str], None]
) -> None:
    tenant, _ = steady
    ran = [one.seconds for one in outcomes if one.seconds is not None]
    failed = [message for one in outcomes for message in one.failed_pulls]
    minted = len(world.exchanges(tenant.identity))
    tell(f"{len(ran)} of {len(outcomes)} Pods ran, the slowest after {max(ran):.1f} s; {len(failed)} pulls failed")
    tell(f"{minted} tokens of {TOKEN_SECONDS} s were minted for it")
    assert len(ran) == len(outcomes) == COUNT
    assert failed == []
    mine = [one for one in world.decisions("hello/first") if one.get("subject") == tenant.identity]
    tell(f"of its {len(mine)} logins, the latest came {min(one['left'] for one in mine):.0f} s before its token's end")
    used = world.measure()
    tell(f"the controller by then: {used['most']:.1f} MiB resident at most, {used['cpu']:.2f} s of CPU")
    assert len(mine) >= COUNT
    assert all(one["admitted"] for one in world.decisions("hello/first"))
