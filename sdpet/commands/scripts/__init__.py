"""`sdpet txt2img` and `sdpet img2img`: Stable Diffusion's public scripts, with adapters.

Modules: arguments (the command line), model (base model and adapters), draw (sampling in batches), init_image, folder
(numbered files), ldm_config (CompVis' configs), watermark, safety.
"""
