"""What Flux makes of an object, by Flux's own code: tests try the health check that the docs show."""

from pathlib import Path

from hack.gomodule import GoPrograms

FLUX_HEALTH = GoPrograms(
    name="fluxhealth",
    module=Path(__file__).parent / "tools" / "fluxhealth",
    packages={"fluxhealth": "fluxhealth"},
    estimate="half a minute to 2 minutes",
)
