"""Kernels of networks: empirical ones of finite width, analytic ones of infinite width."""
