"""HTTP: one exchange, and the addresses that credentials may be sent to."""
