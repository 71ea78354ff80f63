"""Pretraining of small models on the standard library, with AdamW or Muon: how the embedded checkpoints were made.

Muon orthogonalises the update of Q, K and V apart, though GPT-2 fuses them (Zhang et al. 2026, arXiv 2605.09991):
the leaves that are trained are the pieces of the symmetry table, put together for every forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from ..align.families import family
from ..checkpoint.errors import BadInput
from ..checkpoint.loading import load
from ..checkpoint.saving import atomic_directory, write_json
from ..checkpoint.serialization import save_small_files, save_weights
from ..eval.corpora import corpus
from ..eval.progress import Progress
from ..merge.plans import OptimizerName
from ..merge.training.optimizers import Schedule, make_optimizers
from .architectures import FEWER, OTHERS, Architecture
from .demo import CHECKPOINTS

if TYPE_CHECKING:
    from transformers import GPT2Config, PretrainedConfig, PreTrainedTokenizerBase

    from ..align.symmetry import State

VOCABULARY = 1024
DOCS, CODE = "stdlib:docs:train", "stdlib:code:train"
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class TrainingRecipe:
    """How one model is trained. Learning rates are peaks; the schedule is linear warm-up, then cosine to a tenth.

    `optimizer` trains the matrices; embeddings, norms and biases always get AdamW at `adamw_lr`.
    """

    name: str
    optimizer: OptimizerName | Literal["sgd"]
    seed: int
    steps: int
    base: str | None = None
    data: tuple[str, ...] = (DOCS, CODE)
    batch: int = 32
    context: int = 128
    adamw_lr: float = 2e-3
    muon_lr: float = 1e-2
    weight_decay: float = 0.5


EMBEDDED = (
    TrainingRecipe("adamw-1", "adamw", seed=1, steps=1500),
    TrainingRecipe("muon-1", "muon", seed=2, steps=1200, adamw_lr=4e-3, weight_decay=0.3),
    TrainingRecipe("adamw-2", "adamw", seed=3, steps=1500),
    TrainingRecipe("muon-2", "muon", seed=4, steps=1200, adamw_lr=4e-3, weight_decay=0.3),
    TrainingRecipe("docs", "adamw", 5, 300, base="adamw-1", data=(DOCS,), adamw_lr=1e-3),
    TrainingRecipe("code", "adamw", 6, 300, base="adamw-1", data=(CODE,), adamw_lr=1e-3),
)


def small_config(*, layers: int = 4, width: int = 128, heads: int = 4) -> GPT2Config:
    """A small GPT-2 with a context of 128; by default that of the embedded checkpoints, 0.94M parameters."""
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=128,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


def config_of(architecture: Architecture) -> PretrainedConfig:
    """A small model of an architecture, about as large as a `small_config`."""
    from transformers import CONFIG_MAPPING

    if architecture == "gpt2":
        return small_config()
    facts: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 128, "num_hidden_layers": 4}
    facts |= {"num_attention_heads": 4, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0}
    config: PretrainedConfig = CONFIG_MAPPING[architecture](**facts, **OTHERS[architecture])
    return config


def recipes_of(architecture: Architecture) -> tuple[TrainingRecipe, ...]:
    """The models of an architecture: the embedded ones of ``gpt2``, else three by either optimizer, trained less."""
    if architecture == "gpt2":
        return EMBEDDED
    return tuple(
        replace(first, name=f"{first.optimizer}-{number}", seed=10 * number + first.seed, steps=700, batch=16)
        for number in range(1, FEWER + 1)
        for first in EMBEDDED[:2]
    )


def train_tokenizer(specs: tuple[str, ...] = EMBEDDED[0].data) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of 1,024 tokens, trained on the corpora that `specs` name."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for spec in specs for text in corpus(spec).documents())
    tokenizer.train_from_iterator(texts, trainer)
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **ends)


def batches(recipe: TrainingRecipe, tokenizer: PreTrainedTokenizerBase) -> Iterator[Tensor]:
    """Endless batches (batch, context), int64: equal shares of every text, windows drawn from the recipe's seed."""
    generator = torch.Generator().manual_seed(recipe.seed)
    streams = [_stream(spec, tokenizer) for spec in recipe.data]
    window = torch.arange(recipe.context)
    while True:
        rows = []
        for index in range(recipe.batch):
            stream = streams[index % len(streams)]
            start = torch.randint(stream.numel() - recipe.context, (1,), generator=generator)
            rows.append(stream[start + window].long())
        yield torch.stack(rows)


@cache
def _stream(spec: str, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """All tokens of a corpus, int16."""
    ids: list[int] = []
    for text in corpus(spec).documents():
        ids += [*tokenizer.encode(text, verbose=False), tokenizer.eos_token_id]
    return torch.tensor(ids, dtype=torch.int16)


def pretrain(
    recipe: TrainingRecipe,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    start: State | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> State:
    """Train one model from its seed, or from `start`, and return its state (float32, transformers' names)."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    table = family(config)
    state = start or dict(model.named_parameters())
    leaves = {name: piece.detach().clone().requires_grad_() for name, piece in table.split(state).items()}

    optimizers = _optimizers(recipe, leaves, table.matrices)
    schedule = Schedule(optimizers, recipe.steps, floor=0.1)
    source = batches(recipe, tokenizer)
    for step in range(recipe.steps):
        schedule.set(step)
        ids = next(source)
        logits = functional_call(model, table.join(leaves), (ids,), {"use_cache": False}).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        on_step(step, loss.item())
    return {name: value.detach() for name, value in table.join(leaves).items()}


def _optimizers(
    recipe: TrainingRecipe, leaves: Mapping[str, Tensor], matrices: Sequence[str]
) -> list[torch.optim.Optimizer]:
    if recipe.optimizer == "sgd":
        decay = recipe.weight_decay
        return [torch.optim.SGD(list(leaves.values()), lr=recipe.adamw_lr, momentum=0.9, weight_decay=decay)]
    lr = recipe.muon_lr if recipe.optimizer == "muon" else recipe.adamw_lr
    return make_optimizers(
        recipe.optimizer, [leaves], matrices, lr=lr, adamw_lr=recipe.adamw_lr, weight_decay=recipe.weight_decay
    )


@cache
def embedded_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of the embedded checkpoints, which all models of the studies share."""
    return load(CHECKPOINTS / "docs").tokenizer()


def make_checkpoints(
    directory: Path,
    *,
    architecture: Architecture = "gpt2",
    names: Sequence[str] | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train the models of an architecture into `directory`, those of GPT-2 being the embedded checkpoints, and return
    the last training losses of those that were trained.

    `names` are the ones to train, by default all of `recipes_of` the architecture; those that exist are not trained
    again, so that an interrupted run continues. `steps` replaces the number of steps of every recipe.

    Raises BadInput for an unknown name, or a fine-tuned variant whose base is missing.
    """
    progress = progress or Progress()
    recipes = {recipe.name: recipe for recipe in recipes_of(architecture)}
    unknown = sorted(set(names or ()) - recipes.keys())
    if unknown:
        raise BadInput(f"there is no recipe '{unknown[0]}'; there are: {', '.join(recipes)}")
    losses = {}
    for name in names or recipes:
        if (directory / name).exists():
            continue
        recipe = recipes[name] if steps is None else replace(recipes[name], steps=steps)
        progress.stage("preparing the text")
        if recipe.base is None:
            tokenizer = train_tokenizer() if architecture == "gpt2" else embedded_tokenizer()
        elif (directory / recipe.base).is_dir():
            tokenizer = load(directory / recipe.base).tokenizer()
        else:
            raise BadInput(f"'{recipe.name}' starts from '{recipe.base}', which is not there: train that one first")
        losses[name] = make_checkpoint(recipe, config_of(architecture), directory, progress, tokenizer, bases=directory)
    return losses


def make_checkpoint(
    recipe: TrainingRecipe,
    config: PretrainedConfig,
    directory: Path,
    progress: Progress,
    tokenizer: PreTrainedTokenizerBase | None = None,
    bases: Path = CHECKPOINTS,
) -> float:
    """Train one model, save it with its tokenizer and recipe, and return the mean loss of its last 50 steps.

    The base of the recipe, if it has one, is in `bases`. Without a `tokenizer`, it is that of the embedded checkpoints.
    """
    tokenizer = tokenizer or embedded_tokenizer()
    start = dict(load(bases / recipe.base).state) if recipe.base else None
    losses: list[float] = []

    def follow(step: int, loss: float) -> None:
        if step == 0:
            progress.stage(f"training {recipe.name}", recipe.steps)
        losses.append(loss)
        progress.advance()

    state = pretrain(recipe, config, tokenizer, start, follow)
    with atomic_directory(directory / recipe.name) as folder:
        save_weights(folder, {name: tuple(value.shape) for name, value in state.items()}, state, torch.float16)
        save_small_files(folder, config.to_diff_dict(), {}, torch.float16)
        tokenizer.save_pretrained(folder)
        write_json(folder / "recipe.json", asdict(recipe))
    last = losses[-50:]
    return sum(last) / len(last)
