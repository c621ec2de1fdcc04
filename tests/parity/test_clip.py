"""CLIP's text encoder and tokenizer against transformers'."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from ldm_jax.data.tokenize import ClipPieces  # noqa: E402
from ldm_jax.interop import clip_names  # noqa: E402
from ldm_jax.tasks.clip_text import ClipText  # noqa: E402
from tests import clip_vocabulary  # noqa: E402
from tests.parity import oracles  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
def test_clip_text_encoder(activation):
  task = dict(
    vocab_size=60, length=16, width=32, depth=3, num_heads=4, ffn_width=96
  )
  theirs = oracles.randomise(
    transformers.CLIPTextModel(
      transformers.CLIPTextConfig(
        vocab_size=60,
        max_position_embeddings=16,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_act=activation,
        bos_token_id=58,
        eos_token_id=59,
      )
    )
  )
  # Its names have a prefix in older versions.
  tensors = {
    'text_model.' + name.removeprefix('text_model.'): x
    for name, x in theirs.state_dict().items()
  }
  params = oracles.to_ours(clip_names.text_encoder(task), tensors)

  tokens = np.random.default_rng(0).integers(0, 60, (2, 16))
  ours = ClipText(**task, activation=activation).apply(
    {'params': params['model']['conditioner']}, {'tokens': tokens}, None, False
  )
  with torch.no_grad():
    expected = theirs(torch.tensor(tokens)).last_hidden_state
  assert oracles.error(ours.context, expected) <= 1e-4


def test_clip_tokenizer(tmp_path):
  clip_vocabulary.write(tmp_path)
  texts = ['', 'A Red  circle!', 'red ' * 20, 'Ünïcode & 12']
  theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
  expected = theirs(
    texts, padding='max_length', max_length=12, truncation=True
  )['input_ids']
  np.testing.assert_array_equal(ClipPieces(tmp_path, 12)(texts), expected)
