"""The paper's text encoder against diffusers' LDMBertModel."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('diffusers')

from diffusers.pipelines.latent_diffusion import (  # noqa: E402
  pipeline_latent_diffusion as ldm,
)

from ldm_jax.interop import diffusers_names  # noqa: E402
from ldm_jax.tasks.text import Text  # noqa: E402
from tests.parity import oracles  # noqa: E402

pytestmark = pytest.mark.parity


def test_text_encoder():
  # Heads as wide as the paper's, whatever the model's width.
  task = dict(
    vocab_size=50, length=12, width=32, depth=3, num_heads=2, head_width=24
  )
  theirs = oracles.randomise(
    ldm.LDMBertModel(
      ldm.LDMBertConfig(
        vocab_size=50,
        max_position_embeddings=12,
        encoder_layers=3,
        encoder_ffn_dim=128,
        encoder_attention_heads=2,
        head_dim=24,
        d_model=32,
      )
    )
  )
  unused = [row.theirs for row in diffusers_names.text_unused(task)]
  tensors = theirs.state_dict()
  assert [list(tensors.pop(name).shape) for name in unused] == [[50, 32], [50]]
  params = oracles.to_ours(diffusers_names.text(task), tensors)

  tokens = np.random.default_rng(0).integers(0, 50, (2, 12))
  ours = Text(**task).apply(
    {'params': params['model']['conditioner']}, {'tokens': tokens}, None, False
  )
  with torch.no_grad():
    expected = theirs(torch.tensor(tokens)).last_hidden_state
  assert oracles.error(ours.context, expected) <= 1e-4
