"""The paper's tasks. To add one: write its file, then add its line here.

A task is two things. Its Prepare (a dataclass; data workers run it) says what
an example needs, makes it, turns a user's inputs into arrays, and shows a
blank condition (its shapes, for initialisation). It may say the size of the
images that inputs ask for (`size_of`), have the last word on drawn images
(`finish`), picture the condition beside them (`show`) and say whether it can
be dropped (`has_null`). Its conditioner (a Linen module) says what the U-Net is
told, and what it is told when the condition is dropped. A config's `task`
section holds the fields of both.
"""

from typing import NamedTuple

from ldm_jax.tasks import (
  class_label,
  clip_text,
  inpainting,
  inpainting_clip_text,
  inpainting_text,
  layout,
  retrieval,
  semantic,
  super_resolution,
  text,
  unconditional,
)


class Task(NamedTuple):
  conditioner: type
  prepare: type


TASKS = {
  'class_label': Task(class_label.ClassLabel, class_label.Prepare),
  'clip_text': Task(clip_text.ClipText, clip_text.Prepare),
  'inpainting': Task(inpainting.Inpainting, inpainting.Prepare),
  'inpainting_clip_text': Task(
    inpainting_clip_text.InpaintingClipText, inpainting_clip_text.Prepare
  ),
  'inpainting_text': Task(
    inpainting_text.InpaintingText, inpainting_text.Prepare
  ),
  'layout': Task(layout.Layout, layout.Prepare),
  'retrieval': Task(retrieval.Retrieval, retrieval.Prepare),
  'semantic': Task(semantic.Semantic, semantic.Prepare),
  'super_resolution': Task(
    super_resolution.SuperResolution, super_resolution.Prepare
  ),
  'text': Task(text.Text, text.Prepare),
  'unconditional': Task(unconditional.Unconditional, unconditional.Prepare),
}
