"""Sizes of the models that are trained from scratch."""

SIZES = {  # hidden size, layers (Turc et al. 2019, arXiv:1908.08962; base: Devlin et al. 2018)
    "tiny": (128, 2),
    "mini": (256, 4),
    "small": (512, 4),
    "base": (768, 12),
}
