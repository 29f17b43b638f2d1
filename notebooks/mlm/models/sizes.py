"""Sizes of the models that are trained from scratch."""

SIZES: dict[str, tuple[int, int]] = {  # (hidden size, layers)
    "tiny": (128, 2),  # tiny to small: Turc et al. 2019, arXiv:1908.08962
    "mini": (256, 4),
    "small": (512, 4),
    "base": (768, 12),  # Devlin et al. 2018, arXiv:1810.04805
}
