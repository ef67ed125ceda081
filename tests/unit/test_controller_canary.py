"""No token and no proof is ever in a log entry, an Event, an annotation or a metric (X2, TH9)."""

from __future__ import annotations

import asyncio
import base64
import random
from pathlib import Path

from tests.unit.engine import NAME, Engine, identity
from tests.unit.fake_issuer import CANARY, HOUR
from tests.unit.virtual_time import Clock

SIGNS = (CANARY, "eyJ", "X3Rva2Vu", base64.b64encode(CANARY.encode()).decode()[4:20])
"""Of a token, of any JWT, of `_token:` in base64, and of the canary in base64."""


async def test_no_credential_is_readable_after_hours_of_every_kind_of_trouble(clock: Clock, tmp_path: Path) -> None:
    engine = Engine(clock, tmp_path)
    draw = random.Random(7)  # noqa: S311 -- a test that can be run again
    answers: list[tuple[int | None, bytes | None]] = [
        *((status, None) for status in (None, 301, 400, 401, 403, 404, 418, 429, 500, 503)),
        (200, None),
        (200, b'{"token": "' + engine.proof.encode() + b'"}'),
        (200, b'{"token": 17}'),
        (200, engine.proof.encode()),
    ]
    for number in range(8):
        engine.ask(f"team-{number}", number, config={"auths": {"quay.io": {"auth": engine.proof}}})
    async with engine.running():
        for hour in range(24):
            engine.issuer.heal()
            engine.api.heal()
            status, body = answers[hour % len(answers)]
            engine.issuer.fail(status, body=body, identity=identity(draw.randrange(8)))
            verb = draw.choice(["patch", "get", "watch", "list", "create"])
            engine.api.fail(verb, draw.choice([403, 409, 500, 200]), body=engine.proof.encode(), times=3)  # type: ignore[arg-type]
            team = f"team-{draw.randrange(8)}"
            engine.set_config(team, draw.choice([{}, engine.proof.encode(), {"auths": {"cgr.dev": engine.proof}}]))
            engine.annotate(team, refresh=str(hour))
            if hour % 5 == 0:
                engine.api.break_off_watches(after=engine.proof.encode())
            await asyncio.sleep(HOUR / 4)
        said = engine.readable()
        secret = engine.api.secret("team-0", NAME)
    assert len(engine.log) > 150
    assert len(engine.api.events) > 10
    assert any(sign in base64.b64decode(secret["data"][".dockerconfigjson"]).decode() for sign in SIGNS)
    found = [(sign, said[max(0, said.find(sign) - 200) : said.find(sign) + 50]) for sign in SIGNS if sign in said]
    assert not found


async def test_where_the_canary_would_be_seen_it_is(clock: Clock, tmp_path: Path) -> None:
    """The search finds what it is for."""
    engine = Engine(clock, tmp_path)
    engine.ask("team-a")
    async with engine.running():
        engine.logger().info("a token", token=engine.issuer.minted[0])
        assert CANARY in engine.readable()
