"""CLIP's names, and the sizes that its weights tell."""

import numpy as np

from ldm_jax.interop import clip_names

# Some of openai/clip-vit-large-patch14.
KNOWN = {
  'text_model.embeddings.token_embedding.weight': (49408, 768),
  'text_model.embeddings.position_embedding.weight': (77, 768),
  'text_model.encoder.layers.0.self_attn.k_proj.bias': (768,),
  'text_model.encoder.layers.11.self_attn.out_proj.weight': (768, 768),
  'text_model.encoder.layers.3.layer_norm2.weight': (768,),
  'text_model.encoder.layers.7.mlp.fc1.weight': (3072, 768),
  'text_model.encoder.layers.7.mlp.fc2.weight': (768, 3072),
  'text_model.final_layer_norm.bias': (768,),
}


def test_the_defaults_are_those_of_stable_diffusion():
  shapes = {row.theirs: row.shape for row in clip_names.text_encoder({})}
  for name, shape in KNOWN.items():
    assert shapes[name] == shape
  assert len(shapes) == 196
  assert sum(map(np.prod, shapes.values())) == 123_060_480


def test_sizes_are_read_off_the_shapes():
  task = {
    'vocab_size': 99, 'length': 9, 'width': 128, 'depth': 3, 'num_heads': 2,
    'ffn_width': 100,
  }  # fmt: skip
  tensors = {
    row.theirs: np.broadcast_to(np.float32(0), row.shape)
    for row in clip_names.text_encoder(task, 'a.')
  }
  assert clip_names.sizes(tensors, 'a.') == task
  assert clip_names.sizes(tensors, 'b.') == {'depth': 0}
