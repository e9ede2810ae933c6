"""Benchmarks, one file each: a part of naturaltone beside its peer, in one run, on real photos."""
