"""The outside world: signals, requeueing, GPU slots, the hub, clocks and memory."""
