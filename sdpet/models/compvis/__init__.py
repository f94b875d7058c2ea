"""Original checkpoints of Stable Diffusion v1 (one `.ckpt` or `.safetensors` file with CompVis' key names).

peek: what a file holds and whether it is safe, without torch and without executing anything; load: its weights as
diffusers' and transformers' modules; tokens: CLIP's tokenizer from the vocabulary that open_clip ships.
"""
