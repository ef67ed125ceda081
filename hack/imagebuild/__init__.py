"""Container images, built with whichever tool this machine has: `hack/image` for people, `Builder` for tests."""
