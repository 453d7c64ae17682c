"""Parts of `bench_prune.py`: models of random weights, lines of its table, the 7B shapes for a GPU."""
