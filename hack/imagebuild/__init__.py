"""Container images, with whatever builds them on this machine: `hack/image` for people, `Builder` for tests."""
