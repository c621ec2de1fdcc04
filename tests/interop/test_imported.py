"""A config from the little that a source says."""

from ldm_jax import build
from ldm_jax.interop import compvis_config, imported
from tests.interop import released


def test_it_builds_and_what_the_source_says_stays():
  config = compvis_config.read(released.text()).config
  whole = imported.complete(config)
  build.parts(whole)
  for name, section in config.items():
    assert whole[name] == section or section.items() <= whole[name].items()
