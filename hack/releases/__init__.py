"""What a release consists of, made from one commit, with the same bytes whenever and wherever it is made."""

from hack.releases.errors import ReleaseError

__all__ = ["ReleaseError"]
