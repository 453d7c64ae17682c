"""Parts of `bench_roi.py`."""
