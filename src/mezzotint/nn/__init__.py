"""Blocks that two or more networks use: attention, norm, resampling, embeddings, residual blocks, the contracting half of a U-Net."""
