"""What holds in all tests."""

from hypothesis import settings

settings.register_profile("ynet", deadline=None)  # a machine that is shared takes a hundred times as long now and then
settings.load_profile("ynet")
