"""Latency against quality, beside the peers: what `fhrt bench` and `pytest benchmarks` measure."""
