"""What the end-to-end tests stand on. Nothing in here decides whether a test passes but the checkers, which say so."""
