"""Real scenes obey their own captions, and others' by chance."""

import numpy as np
import pytest

from ldm_jax.data.scenes import Scenes
from ldm_jax.evaluation.scene_accuracy import scene_accuracy
from ldm_jax.types import UserError

SCENES = Scenes(30, split='validation')
IMAGES = np.stack([SCENES[i]['image'] for i in range(30)])
CAPTIONS = [SCENES.caption(i) for i in range(30)]


def test_real_scenes_obey_their_captions():
  found = scene_accuracy(IMAGES, CAPTIONS)
  assert found == dict.fromkeys(found, 1.0)


def test_others_captions_are_not_obeyed():
  found = scene_accuracy(IMAGES, CAPTIONS[1:] + CAPTIONS[:1])
  assert found['colour'] < 0.5 and found['all'] < 0.1


def test_other_captions_are_refused():
  with pytest.raises(UserError):
    scene_accuracy(IMAGES[:1], ['an oil painting of a horse'])
