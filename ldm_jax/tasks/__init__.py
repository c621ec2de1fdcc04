"""The paper's tasks. To add one: write its file, then add its line here."""

from ldm_jax.tasks import class_label, text, unconditional

# Name in a config -> (conditioner module, example preparation).
TASKS = {
  'class_label': (class_label.ClassLabel, class_label.prepare),
  'text': (text.Text, text.prepare),
  'unconditional': (unconditional.Unconditional, unconditional.prepare),
}
