"""What several processes do together that share every weight: launched by tests, as `launched(COUNT, JOB, FOLDER)`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertForMaskedLM,
    BertForTokenClassification,
    DeepseekV3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

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
        if make is bert:  # of every second row three tokens have labels, else one: processes have more and fewer
            has_label = torch.arange(LENGTH) <= 2 * (torch.arange(ROWS)[:, None] % 2)
            ids = torch.where(has_label, labelled(ids, ids % 3), ids)
        targets = int((predicted(ids) != IGNORED).sum()) / processes
        model = sharded_model(config)
        shared = model.shared(a)
        held = sum(len(local(tensor).flatten()) for tensor in shared.values())
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
                ours, theirs = gradients(together.leaves()[0]), table.join(gradients(alone.leaves()[0]))
                largest = max(gradient.abs().max() for gradient in theirs.values())
                assert max((ours[name] - theirs[name]).abs().max() for name in theirs) < 1e-5 * largest
                for one in (*of_one, *of_all):
                    _drop_rounding(one, 1e-4 * largest)  # steps of AdamW and Lion are its sign
                    one.step()
                    one.zero_grad()
            moved, ours = alone.now(path).bends[0], gathered(together.now(path).bends[0])
            apart = {name: ours[name] - moved[name] for name in middle}
            change = _norm({name: moved[name] - middle[name] for name in middle})
            assert _norm(apart) < (0.05 if optimizer == "lion" else 1e-4) * change, optimizer


def moves_what_one_process_moves(_: Path) -> None:
    """Losses, gradients and steps of alignments that are learned, alone and with a bend, are those of one process."""
    from isthmus.align.alignment import Alignment
    from isthmus.align.canonical import canonical
    from isthmus.align.families import family
    from isthmus.align.learned import LearnedAlignment
    from isthmus.eval.processes import averaged
    from isthmus.eval.targets import predicted
    from isthmus.merge.path import WeightPath
    from isthmus.merge.plans import PathTraining
    from isthmus.merge.training.path_loss import PathModule, teachers
    from isthmus.merge.training.path_training import accelerator_of
    from isthmus.merge.training.placement import Sharded, path_optimizers

    process, processes = _place()
    for make, bends, t in ((gpt2, 0, 0.35), (llama, 0, 0.5), (gpt2, 1, 0.35), (gpt2, 1, 0.5)):
        first = make(0)
        table, config = family(first.config).untied(), Alignment("learned").config(first.config)
        a, b, middle = (dict(canonical(state_of(make(seed)), family(first.config))) for seed in range(3))
        start = Alignment("orthogonal", table.identity(), 0.5)
        ours, theirs = (LearnedAlignment((start,), table) for _ in range(2))
        for moving in (ours, theirs):
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in moving.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        path = WeightPath("polychain" if bends else "linear", a, b, (middle,) * bends)
        ids = torch.randint(61, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
        rows = {"ids": ids, "given": torch.arange(ROWS) % 3 == 0, "teacher": teachers((1 - t, t), ROWS)}
        share = {name: part[process::processes] for name, part in rows.items()}
        training = PathTraining(optimizer="adamw", lr=1e-2)
        alone = PathModule(path, config, theirs)
        of_one = path_optimizers(alone, training, config)
        placed = Sharded(accelerator_of(training, "cpu", bends=bends), path, config, training, ours)
        targets = predicted(ids).numel() / processes
        for _ in range(2):
            loss = alone(rows["ids"], rows["given"], t, rows["teacher"])
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
            assert abs(averaged(placed.lower(share, t, targets)) - loss.item()) < 1e-5
            assert abs(placed.clip() - norm) < 1e-4 * norm
            for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
                assert (_gradient(one) - _gradient(other)).abs().max() < 1e-5, name
            for optimizer in (*of_one, *placed.optimizers):
                optimizer.step()
                optimizer.zero_grad()
        for one, other in zip(placed.now(path).ends, alone.now(path).ends, strict=True):
            whole = gathered(one)
            assert max((whole[name] - other[name]).abs().max() for name in whole) < 1e-3


def trains(folder: Path) -> None:
    """What the environment's WHAT names, one after the other: a bend, two bends, or an alignment."""
    for what in os.environ["WHAT"].split():
        (folder / what).mkdir(exist_ok=True)
        _trains(what, folder / what)


def _trains(what: str, folder: Path) -> None:
    """Twelve steps, or as many as are left of them; they are interrupted after the number of the environment's STOP."""
    from isthmus.align.alignment import Alignment
    from isthmus.align.canonical import canonical
    from isthmus.align.families import family
    from isthmus.align.learned import LearnedAlignment
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

    class Stopping(Progress):
        done = 0

        def advance(self, steps: int = 1) -> None:
            self.done += steps
            if self.done == stop:
                raise KeyboardInterrupt

    training = PathTraining(steps=12, batch=8, optimizer="muon", lr=1e-2)
    start, config, moving = WeightPath("polychain", a, b, (middle,)), model.config, None
    if what == "bends":  # of which the second is never reached
        training = replace(training, optimizer="adamw", span=(0.1, 0.3))
        start = replace(start, bends=(middle, state_of(gpt2(3))))
    elif what == "alignment":
        table, config = family(config).untied(), Alignment("learned").config(config)
        moving = LearnedAlignment((Alignment("orthogonal", table.identity(), 0.5),), table)
        start = WeightPath.line([canonical(state, family(model.config)) for state in (a, b)])
    meter = LossMeter(config, {"x": text[:4]})
    settings: dict[str, Any] = {"moving": moving, "run": TrainingState(folder / "run", {}), "progress": Stopping()}
    try:
        trained = path_training.train_path(
            start, config, {"x": text}, lambda path: meter(path(0.5)).mean, training, **settings
        )
    except KeyboardInterrupt:
        return
    whole = gathered(trained.path.ends[1] if moving else trained.path.bends[0])
    if _place()[0] == 0:
        save_file(whole, folder / "trained.safetensors")
        (folder / "history").write_text(repr(trained.history))


def computes_in_bfloat16(_: Path) -> None:
    """Casts are of the state that is run: all gradients arrive, and are nearly those in float32."""
    from isthmus.align.families import family
    from isthmus.merge.path import WeightPath
    from isthmus.merge.plans import PathTraining
    from isthmus.merge.training.path_loss import PathModule, teachers
    from isthmus.merge.training.path_training import accelerator_of
    from isthmus.merge.training.placement import Sharded

    process, processes = _place()
    config, (a, b, middle) = gpt2(0).config, (state_of(gpt2(seed)) for seed in range(3))
    path, t, training = WeightPath("polychain", a, b, (middle,)), 0.5, PathTraining(precision="bf16")
    ids = torch.randint(61, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    rows = {"ids": ids, "given": torch.arange(ROWS) % 3 == 0, "teacher": teachers((1 - t, t), ROWS)}
    alone = PathModule(path, config)
    alone(rows["ids"], rows["given"], t, rows["teacher"]).backward()
    placed = Sharded(accelerator_of(training, "cpu", bends=1), path, config, training)
    share = {name: part[process::processes] for name, part in rows.items()}
    placed.lower(share, t, ROWS * (LENGTH - 1) / processes)
    ours, theirs = gradients(placed.module.leaves()[0]), family(config).join(gradients(alone.leaves()[0]))
    apart = _norm({name: ours[name] - theirs[name] for name in theirs})
    assert 1e-4 < apart / _norm(theirs) < 0.05


def runs_what_has_buffers_and_ties(_: Path) -> None:
    """Models whose layers are not all of one kind: their logits, with every state in turn."""
    from tiny_models import tiny_bert, tiny_rotary

    from isthmus.checkpoint.model import log_probs
    from isthmus.eval.sharded import sharded_model

    def deepseek(seed: int) -> PreTrainedModel:
        facts = {
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        }
        facts |= {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
        return tiny_rotary(DeepseekV3ForCausalLM, seed, first_k_dense_replace=1, num_key_value_heads=6, **facts)

    ids = torch.randint(61, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    for make in (lambda seed: tiny_bert(BertForMaskedLM, seed), deepseek):
        models = [make(seed) for seed in range(2)]
        config = models[0].config
        config.architectures = [type(models[0]).__name__]
        model, has_buffers = sharded_model(config), make is deepseek
        for one in (*models, models[0]):
            state = state_of(one)
            kept = {name: buffer + 1 for name, buffer in one.named_buffers() if name.endswith("score_correction_bias")}
            assert bool(kept) == has_buffers
            state |= kept
            for form in (state, model.shared(state)):
                model.load(form)
                with torch.no_grad():
                    own = model.logits(ids).log_softmax(-1)
                assert (own - log_probs(state, config, ids)).abs().max() < 1e-5


def trained(folder: Path) -> dict[str, Tensor]:
    """What `trains` has left."""
    return load_file(folder / "trained.safetensors")


def _require_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert set(one) == set(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def local(tensor: Any) -> Tensor:
    """This process's rows of a tensor that is shared."""
    rows: Tensor = tensor.to_local()
    return rows


def gathered(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The whole tensors of a state that is shared; of one that is not, as they are."""
    return {name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for name, tensor in state.items()}


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def gradients(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of all leaves, whole; all of them have one."""
    return gathered({name: leaf.grad for name, leaf in leaves.items()})


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
