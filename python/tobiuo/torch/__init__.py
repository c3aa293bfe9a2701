"""PyTorch modules, by way of ``torch.export``."""
