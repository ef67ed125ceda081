"""The error that all of a release's parts raise."""


class ReleaseError(Exception):
    """A release can't be made; the message says what to do, or a tool has printed why."""
