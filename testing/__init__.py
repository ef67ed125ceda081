"""Stand-ins for services on the Internet: real servers, faithful to the original and easy to break."""
