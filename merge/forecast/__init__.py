"""What a merge will read, train and measure, in what memory and time, before any of it is done.

`forecast` opens the models as a merge does, reads the text, measures how fast the machine is (`speed`), and adds up
the work of all stages (`stages`, `work`, `alignments`).
"""

from .forecast import Forecast, expected, forecast

__all__ = ["Forecast", "expected", "forecast"]
