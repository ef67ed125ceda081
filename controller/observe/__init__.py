"""What people and Prometheus see: metrics, logs, health."""
