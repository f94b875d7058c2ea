"""Original checkpoints of Stable Diffusion v1 (one `.ckpt` or `.safetensors` file with CompVis' key names).

scan: the contents of a file and whether it is safe, without torch and without executing anything; load: its weights as
diffusers' and transformers' modules; tokenizer: CLIP's tokenizer from the vocabulary that open_clip contains.
"""
