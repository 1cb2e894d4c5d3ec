# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The Lightning strategy `nemo_sortformer`: one engine from one device to many nodes, set up by `model.parallel`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision.precision import Precision
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from nemo.utils import logging
from nemo.utils.app_state import AppState
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from nemo_sortformer.config import ConfigError, ParallelConfig, from_cfg
from nemo_sortformer.distributed import checkpoints, fp8, progress, tensors
from nemo_sortformer.distributed.apply import apply, build_mesh, seed_by_data_share
from nemo_sortformer.distributed.batch_norm import pool_running_statistics
from nemo_sortformer.distributed.data_share import check_same_share, read_data_share
from nemo_sortformer.distributed.export import gather_on_save
from nemo_sortformer.distributed.loaders import Filler, SharedLoader, uncounted
from nemo_sortformer.distributed.precision import MainParamsPrecision
from nemo_sortformer.distributed.random_state import gather_random_states, set_random_state
from nemo_sortformer.distributed.sharding import hold_back, put_to_rest
from nemo_sortformer.distributed.weight_average import replace_ema

_DTYPE_OF = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}
_UNFIT_OPTIMIZERS = ("Novograd", "Adafactor")
"""They compute with whole tensors, of which a process has parts only."""


class SortformerStrategy(ModelParallelStrategy):
    """Trains any NeMo model on a mesh of copies, parts and tensor-parallel ranks; see docs/training_at_scale.md.

    Sizes and types stand in the model's settings, under `parallel` (:class:`~nemo_sortformer.config.ParallelConfig`),
    so that a script needs no more than `trainer.strategy=nemo_sortformer`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **settings)
        self.parallel = ParallelConfig()
        self.dtype = "fp32"
        self.extra_tensors: dict[str, dict[str, Tensor]] = {}
        """Further groups of divided tensors that belong into checkpoints."""
        self._roots: list[FSDPModule] = []
        self._divided: LightningModule | None = None
        self._random_state: dict[str, Any] | None = None
        self._layout_before: tuple[int, int | None] | None = None
        self._train_loader: Any = None
        self._cleaned: set[Path] = set()

    # Processes

    def setup_environment(self) -> None:
        """Join the other processes and arrange them.

        Raises:
            ConfigError: a setting is wrong, or the address to meet at is taken.
        """
        model = self.lightning_module
        self.parallel = parallel_config(model)
        self.dtype = self._resolve_dtype()
        self._timeout = timedelta(seconds=self.parallel.timeout_seconds)
        self.parallel.mesh_shape(self.world_size)  # before anybody waits for anybody
        fp8.is_wanted(self.parallel.fp8)  # type: ignore[arg-type]  # no bool any more
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        try:
            self._setup_distributed()
        except dist.DistNetworkError as error:
            address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise ConfigError(
                f"The processes cannot meet at `MASTER_ADDR:MASTER_PORT`, {address}: {str(error).splitlines()[0]} "
                f"If the port is in use, set `MASTER_PORT` to a free one, or start with `torchrun --standalone`."
            ) from error
        if self._device_mesh is None:
            self._device_mesh = build_mesh(self.parallel, self.root_device.type)
        model._device_mesh = self._device_mesh
        self.precision_plugin = MainParamsPrecision(self.dtype, self.parallel)
        AppState().data_parallel_size = self.data_parallel_size  # NeMo's schedules count steps by it

    def _resolve_dtype(self) -> str:
        plugin = self.precision_plugin
        if isinstance(plugin, MainParamsPrecision):
            return plugin.dtype
        name = str(getattr(plugin, "precision", "32-true")) if type(plugin) is not Precision else "32-true"
        if name not in _DTYPE_OF:
            raise ConfigError(
                f"`trainer.precision` must be `32-true`, `bf16-mixed` or `16-mixed` with this strategy, but is "
                f"`{name}`. Leave it out and set `model.parallel.dtype` to fp32, bf16 or fp16."
            )
        dtype = self.parallel.dtype or _DTYPE_OF[name]
        if name != "32-true" and _DTYPE_OF[name] != dtype:
            raise ConfigError(
                f"`trainer.precision` and `model.parallel.dtype` must agree, but are `{name}` and `{dtype}`. Leave "
                f"one of them out."
            )
        return dtype

    @property
    def data_parallel_size(self) -> int:
        """How many processes read different data."""
        return self.parallel.data_share(0, self.world_size)[1]

    @property
    def data_parallel_rank(self) -> int:
        """The number of this process among them."""
        return self.parallel.data_share(self.global_rank, self.world_size)[0]

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Processes of one tensor-parallel group read the same data."""
        return {"num_replicas": self.data_parallel_size, "rank": self.data_parallel_rank}

    def data_share(self, parallel: ParallelConfig | None) -> tuple[int, int]:
        """For models, whose loaders are made before the strategy sees their settings."""
        return (parallel or ParallelConfig()).data_share(self.global_rank, self.world_size)

    # Model

    def setup(self, trainer: Trainer) -> None:
        """Divide the model, make its optimizer, and prepare loaders and files for many processes."""
        self.accelerator.setup(trainer)
        self.model_to_device()
        model = self.lightning_module
        if self._divided is not model:
            self._check_layer_sync()
            self._roots = apply(model, self.parallel, self.device_mesh, dtype=self.dtype)
            gather_on_save(model, self.pool_statistics)
            self._divided = model
        seed_by_data_share(self._common_seed(), self.data_parallel_rank)
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
            replace_ema(trainer, self)
        self.setup_precision_plugin()

    def _check_layer_sync(self) -> None:
        if self._layer_sync is None:
            return
        if self.root_device.type != "cuda":
            raise ConfigError(
                "`trainer.sync_batchnorm` needs GPUs, as torch's synchronized batch norm does; set it false."
            )
        self.model = self._layer_sync.apply(self.model)

    def _common_seed(self) -> int:
        seed = torch.tensor([int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed() % 2**31))])
        seed = seed.to(self.root_device)
        dist.broadcast(seed, src=0)
        return int(seed)

    def setup_optimizers(self, trainer: Trainer) -> None:
        """Make the optimizer over divided parameters; AdamW's steps are fused unless the settings say how they are.

        Raises:
            ConfigError: the optimizer needs whole tensors.
        """
        put_to_rest(self.lightning_module)
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            name = type(optimizer).__name__
            if name in _UNFIT_OPTIMIZERS:
                raise ConfigError(
                    f"`model.optim.name` must be an optimizer that works on parts of tensors, such as `adamw`, but is "
                    f"{name}, which does not."
                )
            if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
                for group in optimizer.param_groups:
                    if group.get("fused") is None and group.get("foreach") is None:
                        group["fused"] = True
        self.precision_plugin.hold_schedules(self.lightning_module)

    def pool_statistics(self) -> None:
        """Give all data-parallel processes the same running statistics of batch norms, and divide what is gathered."""
        put_to_rest(self.lightning_module)
        pool_running_statistics(self.lightning_module, self.device_mesh["data_parallel"].get_group())

    def on_validation_start(self) -> None:
        """Evaluate the same model everywhere."""
        self.pool_statistics()

    def on_validation_end(self) -> None:
        """Go back to divided parameters."""
        put_to_rest(self.lightning_module)

    def on_test_start(self) -> None:
        """Evaluate the same model everywhere."""
        self.pool_statistics()

    def on_test_end(self) -> None:
        """Go back to divided parameters."""
        put_to_rest(self.lightning_module)

    # Steps

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Sum or average over all processes, or those of `group`, without making the host wait."""
        if not isinstance(tensor, Tensor) or not dist.is_initialized():
            return tensor
        is_mean = isinstance(reduce_op, str) and reduce_op.lower() in ("mean", "avg")
        name = reduce_op.upper() if isinstance(reduce_op, str) else None
        operation = dist.ReduceOp.SUM if is_mean else getattr(dist.ReduceOp, name) if name else reduce_op
        dist.all_reduce(tensor, op=operation, group=group)
        if not is_mean:
            return tensor
        size = dist.get_world_size(group)
        return tensor.div_(size) if tensor.is_floating_point() else tensor.copy_(tensor / size)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Run a micro-batch that is not the last before a step."""
        with hold_back(self._roots, zero_stage=self.parallel.zero_stage):
            yield

    def process_dataloader(self, dataloader: Any) -> Any:
        """Let loaders go on where a checkpoint was made, and end together on all processes."""
        trainer = self.lightning_module.trainer
        if trainer.training:
            self._train_loader = dataloader
        group = progress.host_group(self.root_device)
        if self.parallel.tensor_parallel_size > 1:
            read_data_share(dataloader, self.data_parallel_rank, self.data_parallel_size)
            check_same_share(dataloader, self.parallel.tensor_parallel_size, group)
        return SharedLoader(dataloader, trainer, group=group)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Go on with the random states of a checkpoint."""
        if self._random_state is not None:
            set_random_state(self._random_state)
            self._random_state = None

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; one that only keeps other processes company is not counted."""
        return self._evaluation_step(super().validation_step, *args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`validation_step`."""
        return self._evaluation_step(super().test_step, *args, **kwargs)

    def _evaluation_step(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        batch, *rest = args
        if not isinstance(batch, Filler):
            return step(*args, **kwargs)
        with uncounted(self.lightning_module):
            step(batch.batch, *rest, **kwargs)
        return None

    def on_exception(self, exception: BaseException) -> None:
        """Say what to do where another process went away."""
        if isinstance(exception, (dist.DistBackendError, dist.DistNetworkError)) or _lost_a_peer(exception):
            logging.error(
                f"Process {self.global_rank} of {self.world_size} stops, as another one ended or did not answer for "
                f"{self.parallel.timeout_seconds:g} seconds (`model.parallel.timeout_seconds`); the first error in "
                f"the logs of all processes is the cause. The same command goes on from the last whole checkpoint."
            )

    # Checkpoints

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights: parts where each process writes its own, else whole on process 0 and nothing elsewhere."""
        self.pool_statistics()
        state = self.lightning_module.state_dict()
        return state if self.parallel.sharded_checkpoints else tensors.gather(state)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state, divided or whole as the weights; whole in torch's own form."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        put_to_rest(self.lightning_module)
        names = tensors.parameter_names(self.lightning_module)
        named = tensors.optimizer_tensors(optimizer, names)
        groups = tensors.hyperparameters(optimizer, names)
        if self.parallel.sharded_checkpoints:
            return {"state": named, "param_groups": groups}
        named = tensors.gather(named)
        return checkpoints.numbered(named, groups) if self.is_global_zero else {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; all processes must call this. It is there whole, or not at all."""
        path = Path(self.broadcast(str(filepath)))
        if self.is_global_zero and path.parent not in self._cleaned:
            checkpoints.clean_up(path.parent)
            self._cleaned.add(path.parent)
        progress.correct_counts(checkpoint)
        ours: dict[str, Any] = {
            "random_states": gather_random_states(self.parallel.tensor_parallel_size),
            "data_parallel_size": self.data_parallel_size,
            "batch_size": getattr(self._train_loader, "batch_size", None),
        }
        checkpoint[checkpoints.KEY] = ours
        if not self.parallel.sharded_checkpoints:
            ours["extra"] = {kind: tensors.gather(group) for kind, group in self.extra_tensors.items()}
            checkpoints.save_one_file(checkpoint, path)
            return
        parts: dict[str, Mapping[str, Any]] = {"model": checkpoint.pop("state_dict"), **self.extra_tensors}
        states = checkpoint.pop("optimizer_states", [])
        parts |= {f"optimizer_{index}": state["state"] for index, state in enumerate(states)}
        ours["optimizer_groups"] = [state["param_groups"] for state in states]
        checkpoints.save_shards(checkpoint, parts, path)

    def load_checkpoint(self, checkpoint_path: Any) -> dict[str, Any]:
        """Read a checkpoint of any layout; see :func:`~nemo_sortformer.distributed.checkpoints.load`."""
        path = Path(self.broadcast(str(checkpoint_path)))
        put_to_rest(self.lightning_module)
        optimizers = [getattr(one, "_optimizer", one) for one in self.optimizers]
        checkpoint = checkpoints.load(path, self.lightning_module, optimizers, self.extra_tensors)
        ours = checkpoint.get(checkpoints.KEY, {})
        before = ours.get("data_parallel_size", self.data_parallel_size)
        self._layout_before = (before, ours.get("batch_size"))
        if before != self.data_parallel_size:
            logging.info(
                f"{before} data-parallel processes become {self.data_parallel_size}: random states start anew."
            )
        elif "random_states" in ours:
            self._random_state = ours["random_states"][self.data_parallel_rank]
        return checkpoint

    def recount_batches(self, loader: Any) -> None:
        """Translate how far a checkpoint was in its epoch into batches of `loader`, the first time this is called."""
        if self._layout_before is None:
            return
        (before, batch_before), now = self._layout_before, self.data_parallel_size
        batch_now = getattr(loader, "batch_size", None)
        if batch_before and batch_now:
            before, now = before * batch_before, now * batch_now
        progress.recount(
            self.lightning_module.trainer.fit_loop.epoch_loop.batch_progress.current, before=before, now=now
        )
        self._layout_before = None

    def remove_checkpoint(self, filepath: Any) -> None:
        """Remove a checkpoint with all its parts."""
        if self.is_global_zero:
            checkpoints.remove(Path(filepath))


def parallel_config(model: LightningModule) -> ParallelConfig:
    """Settings under `parallel` of a NeMo model; the defaults where there are none."""
    cfg = getattr(model, "cfg", None)
    given = cfg.get("parallel") if cfg is not None else None
    return from_cfg(ParallelConfig, given, path="model.parallel")


def _lost_a_peer(exception: BaseException) -> bool:
    words = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")
    return isinstance(exception, RuntimeError) and any(word in str(exception) for word in words)
