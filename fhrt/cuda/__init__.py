"""What the GPU does between the networks: kernels, how they are compiled and called."""
