"""What is chosen by hardware: the kernels of attention and of linear layers."""
