"""One command that shows on a GPU what a CPU cannot: `python3 benchmarks/gpu_check -o OUT`."""
