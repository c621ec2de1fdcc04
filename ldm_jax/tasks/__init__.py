"""The paper's tasks. To add one: write its file, then add its line here.

A task is two things. Its Prepare (a dataclass; data workers run it) says what
an example needs, makes it, turns a user's inputs into arrays, and shows a
blank condition (its shapes, for initialisation). Its conditioner (a Linen module) says what the U-Net is told, and what it is told
when the condition is dropped. A config's `task` section holds the fields of
both.
"""

from typing import NamedTuple

from ldm_jax.tasks import class_label, text, unconditional


class Task(NamedTuple):
  conditioner: type
  prepare: type


TASKS = {
    'class_label': Task(class_label.ClassLabel, class_label.Prepare),
    'text': Task(text.Text, text.Prepare),
    'unconditional': Task(unconditional.Unconditional, unconditional.Prepare),
}
