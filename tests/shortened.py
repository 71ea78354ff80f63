"""What takes long and that no test is about, done for less than users have it done: the same code, on less."""

from __future__ import annotations

from functools import cache


def shorten() -> None:
    """Set the amounts of this process. Before others take them by name: nothing else has imported `isthmus.merge`."""
    import isthmus.merge.reading

    isthmus.merge.reading.ACTIVATION_TOKENS = 4096  # what models compute is looked at on a quarter of the text

    import isthmus.checkpoint.card
    import isthmus.eval.page_templates

    # The templates of cards and pages are compiled once in a process, not for every one that is written.
    for module, name in ((isthmus.checkpoint.card, "_environment"), (isthmus.eval.page_templates, "page_environment")):
        setattr(module, name, cache(getattr(module, name)))

    import isthmus.eval.memorization
    import isthmus.eval.samples
    import isthmus.merge.aligned_checkpoint
    import isthmus.merge.plane
    import isthmus.merge.probe
    import isthmus.merge.training.text

    # What is trained is chosen by a part of the text, after every few steps.
    isthmus.merge.aligned_checkpoint.SELECT_TOKENS = 1024
    isthmus.merge.training.text.SELECT_BLOCKS = 8

    # Reports have a coarse plane and few words: processes of their own, as of the demo, have them whole.
    isthmus.merge.plane._measured.__kwdefaults__["resolution"] = 3
    isthmus.merge.plane.BLOCKS = 2
    isthmus.eval.samples.samples.__kwdefaults__.update(per_label=1, new_tokens=4)

    # And models write less: a token at a time, that takes as long for a small model as for a large one.
    isthmus.merge.probe.TOKENS, isthmus.merge.probe.LENGTH = 1024, 32
    isthmus.eval.memorization.BLOCKS, isthmus.eval.memorization.LENGTH = 4, 32

    # How fast this machine is matters to no test: everything is timed once. Last, as it takes amounts of others.
    import isthmus.merge.forecast.speed

    isthmus.merge.forecast.speed.WORTH = 0.0
