"""A folder that all processes of a job see, in which states lie that only one of them can make, or none has whole."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.lazy_state import LazyState
from ..checkpoint.path_conflicts import output_path
from ..checkpoint.serialization import save_tensors
from ..checkpoint.stored_state import stored_state
from ..checkpoint.working_folders import WorkingFolder, hidden_sibling
from ..eval.processes import from_main, is_main, wait_for_everyone
from ..eval.sharded import SharedState


class SharedFolder:
    """The folder: next to the output `beside`, or in the system's temporary one; gone with the last state in it."""

    def __init__(self, beside: Path | None):
        self._folder: WorkingFolder | None = None
        if is_main():
            stem = Path(tempfile.gettempdir(), "isthmus-shared-")
            self._folder = WorkingFolder(
                stem if beside is None else hidden_sibling(output_path(beside), ".isthmus-shared-")
            )
        self._path = from_main(lambda: self._folder.path if self._folder else Path())

    def put(self, name: str, shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor] | None) -> LazyState:
        """A state in float32, read from the folder; every process calls this.

        A `state` that is shared is gathered tensor by tensor; of any other, that of the main process is written.
        """
        file = self._path / f"{name}.safetensors"
        if isinstance(state, SharedState):
            state = state.gathered()
            if not is_main():
                for tensor in shapes:
                    state[tensor]
        if is_main():
            assert state is not None, "the main process has it"
            save_tensors(file, shapes, state, torch.float32, maker=name)
        wait_for_everyone()
        return stored_state(file, name, self)
