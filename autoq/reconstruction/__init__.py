"""Reconstruction: train rounding and scales block by block on unlabelled images (AdaRound, BRECQ, QDrop, APHQ-ViT)."""
