"""What computing needs whatever is computed: compiling, counting operations, prefetching, the device and its host."""
