"""What several processes do together that share every weight: launched by tests, as `launched(COUNT, JOB, FOLDER)`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertForTokenClassification, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PretrainedConfig

HERE = Path(__file__).parent
ROWS, LENGTH = 8, 12


def launched(processes: int, *arguments: object, sharing: bool = True) -> subprocess.CompletedProcess[str]:
    """Run this file, or a module after ``-m``, in so many processes, on one core each."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", processes]
    program = () if arguments[0] == "-m" else (__file__,)
    settings = {"ACCELERATE_USE_FSDP": str(sharing).lower(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    command = list(map(str, [*launch, *program, *arguments]))
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})


def gpt2(seed: int) -> GPT2LMHeadModel:
    """Tied, and with rows that four processes cannot share evenly."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=61, n_positions=16, n_embd=30, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0)
    return _louder(GPT2LMHeadModel(config))


def llama(seed: int) -> LlamaForCausalLM:
    """With an unembedding of its own, and buffers."""
    from tiny_models import tiny_rotary

    model: LlamaForCausalLM = tiny_rotary(LlamaForCausalLM, seed, vocab_size=61, tie_word_embeddings=False)
    return model


def bert(seed: int) -> BertForTokenClassification:
    """A classifier of tokens, some of which have one of three labels."""
    from tiny_models import tiny_bert

    model: BertForTokenClassification = tiny_bert(BertForTokenClassification, seed, vocab_size=61, num_labels=3)
    return model


def _louder(model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def state_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights by name, each once."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def computes_what_one_process_computes(_: Path) -> None:
    """Logits, gradients and steps of every optimizer are those of all weights in one process."""
    from isthmus.align.families import family
    from isthmus.checkpoint.model import log_probs, outputs
    from isthmus.eval.sharded import sharded_model
    from isthmus.eval.targets import IGNORED, labelled, predicted, shown
    from isthmus.merge.path import WeightPath
    from isthmus.merge.plans import PathTraining
    from isthmus.merge.training.path_loss import PathModule, teachers
    from isthmus.merge.training.placement import path_optimizers
    from isthmus.merge.training.sharded_path import ShardedPath, sharded_optimizers

    process, processes = _place()
    for make in (gpt2, llama, bert):
        first, second, third = (make(seed) for seed in range(3))
        a, b, middle = map(state_of, (first, second, third))
        config: PretrainedConfig = first.config
        config.architectures = [make.__annotations__["return"]]  # as it is read from files
        ids = torch.randint(61, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
        if make is bert:  # of row r, r + 1 tokens have labels, so that no two processes have as many
            has_label = torch.arange(LENGTH) <= torch.arange(ROWS)[:, None]
            ids = torch.where(has_label, labelled(ids, ids % 3), ids)
        targets = int((predicted(ids) != IGNORED).sum()) / processes
        model = sharded_model(config)
        shared = model.shared(a)
        held = sum(tensor.to_local().numel() for tensor in shared.values())  # type: ignore[attr-defined]
        assert held <= 1.1 * sum(tensor.numel() for tensor in a.values()) / processes
        _require_same(a, shared.gathered())
        _require_same(a, model.shared_in_turn(a).gathered())
        for state in (a, shared, b):
            model.load(state)
            with torch.no_grad():
                own = outputs(model.logits(shown(ids)[process : process + 1]), config)
            whole = b if state is b else a
            assert (own - log_probs(whole, config, shown(ids)[process : process + 1])).abs().max() < 1e-5

        path, t = WeightPath("polychain", a, b, (middle,)), 0.35
        given, teacher = torch.arange(ROWS) % 3 == 0, teachers((1 - t, t), ROWS)
        share = slice(process, None, processes)
        for optimizer in ("adamw", "muon", "lion"):
            training, table = PathTraining(optimizer=optimizer, lr=1e-2), family(config)
            alone, together = PathModule(path, config), ShardedPath(path, config, "cpu")
            of_one = path_optimizers(alone, training, config)
            of_all = sharded_optimizers(together, training, table, 4e-3)
            for _ in range(2):
                alone(ids, given, t, teacher).backward()
                together(ids[share], given[share], t, teacher[share], targets).backward()
                together.collect(t)
                ours = {name: leaf.grad.full_tensor() for name, leaf in together.leaves()[0].items()}  # type: ignore[union-attr,operator]
                theirs = {name: leaf.grad for name, leaf in alone.leaves()[0].items()}
                theirs = table.join(theirs)  # type: ignore[arg-type]
                largest = max(gradient.abs().max() for gradient in theirs.values())
                assert max((ours[name] - theirs[name]).abs().max() for name in theirs) < 1e-5 * largest
                for one in (*of_one, *of_all):
                    _drop_rounding(one, 1e-4 * largest)  # steps of AdamW and Lion are its sign
                    one.step()
                    one.zero_grad()
            moved, ours = alone.now(path).bends[0], together.now(path).bends[0].gathered()  # type: ignore[attr-defined]
            apart = {name: ours[name] - moved[name] for name in middle}
            change = _norm({name: moved[name] - middle[name] for name in middle})
            assert _norm(apart) < (0.05 if optimizer == "lion" else 1e-4) * change, optimizer


def trains(folder: Path) -> None:
    """Twelve steps, or as many as are left of them; they are interrupted after the number of the environment's STOP."""
    from isthmus.eval.loss import LossMeter
    from isthmus.eval.progress import Progress
    from isthmus.merge.path import WeightPath
    from isthmus.merge.plans import PathTraining
    from isthmus.merge.training import path_training
    from isthmus.merge.training.training_state import TrainingState

    path_training.SPACING = 1
    stop, model = int(os.environ.get("STOP", "99")), gpt2(0)
    a, b, middle = map(state_of, (model, gpt2(1), gpt2(2)))
    text = torch.randint(61, (64, LENGTH), generator=torch.Generator().manual_seed(0))
    meter = LossMeter(model.config, {"x": text[:4]})

    class Stopping(Progress):
        done = 0

        def advance(self, steps: int = 1) -> None:
            self.done += steps
            if self.done == stop:
                raise KeyboardInterrupt

    training = PathTraining(steps=12, batch=8, optimizer="muon", lr=1e-2)  # type: ignore[arg-type]
    run, start = TrainingState(folder / "run", {}), WeightPath("polychain", a, b, (middle,))
    fit = {"x": text}
    try:
        trained = path_training.train_path(
            start, model.config, fit, lambda path: meter(path(0.5)).mean, training, run=run, progress=Stopping()
        )
    except KeyboardInterrupt:
        return
    bend = trained.path.bends[0]
    whole = {name: bend.gathered()[name] for name in bend}  # type: ignore[attr-defined]
    if _place()[0] == 0:
        save_file(whole, folder / "bend.safetensors")
        (folder / "history").write_text(repr(trained.history))


def trained_bend(folder: Path) -> dict[str, Tensor]:
    """What `trains` has left."""
    return load_file(folder / "bend.safetensors")


def _require_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert set(one) == set(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def _norm(state: Mapping[str, Tensor]) -> float:
    return sum(float(tensor.square().sum()) for tensor in state.values()) ** 0.5


def _drop_rounding(optimizer: torch.optim.Optimizer, limit: Tensor) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(parameter.grad.abs() > limit)


def _place() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    from isthmus.eval.processes import processes_of_job

    processes = processes_of_job()
    return int(processes.process_index), int(processes.num_processes)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
    from isthmus.eval.processes import finish

    finish()
