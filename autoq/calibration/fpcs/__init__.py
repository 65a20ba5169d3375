"""Layer-output search: parameters of least error of a layer's output, by AdaLog's progressive search (FPCS)."""
