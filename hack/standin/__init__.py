"""Stand-ins for services that only the Internet has: real servers, faithful to the original and easy to break."""
