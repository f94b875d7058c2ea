"""`sdpet txt2img` and `sdpet img2img`: Stable Diffusion's public scripts, with adapters.

arguments (the command line, checked), model (which base model and adapters), draw (the batches), init_image,
folder (numbered files), watermark, safety.
"""
