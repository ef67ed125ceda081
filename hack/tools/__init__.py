"""Programs of others that tests and releases run, each built from the Go module in its directory."""
