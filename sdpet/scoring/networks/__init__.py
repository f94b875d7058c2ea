"""Pretrained networks that score images: CLIP through open_clip, DINO, Inception and LPIPS."""
