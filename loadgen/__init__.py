"""Events in: simulators, replay, arrival processes and the latency report."""
