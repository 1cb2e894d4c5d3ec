# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Train a labeler on one of five tasks and test it on classes that it has never seen: a minute or two on a CPU core.

    python examples/label_task.py --config-name=task_faces     # or task_speakers, _languages, _genres, _anomalies

`<data_dir>` gets the sequences (made once) and the trained `.nemo`, `<out_dir>` the scores and a picture; with
`seeds=[0,1,2]` three models are trained.
What is real and what is made, and what came out: docs/tasks.md (written by `out_dir=docs`).
"""

import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from nemo.core.config import hydra_runner
from omegaconf import DictConfig
from rich.progress import Progress

from nemo_sortformer.cli.console import quiet_nemo
from nemo_sortformer.config import from_cfg
from nemo_sortformer.data.tasks.build import TaskConfig, build_task
from nemo_sortformer.data.tasks.folder import read_split, write_task
from nemo_sortformer.data.tasks.picture import draw_sequence
from nemo_sortformer.data.tasks.results import write_result
from nemo_sortformer.data.tasks.scores import part_name, score_answers, score_references
from nemo_sortformer.inference.checkpoint import load_shipped
from nemo_sortformer.models.labeler import SortformerLabeler


@torch.inference_mode()
def embed(model: torch.nn.Module, audio: np.ndarray) -> np.ndarray:
    """The speaker embeddings of a diarizer, one per 80 ms of audio at 16 kHz, shape (frames, dim)."""
    length = torch.tensor([len(audio)])
    return model(audio_signal=torch.from_numpy(audio)[None], audio_signal_length=length).embeddings[0].numpy()


@hydra_runner(config_path="../configs", config_name="task_faces")
def main(cfg: DictConfig) -> None:
    """Make the data, train once per seed, test, write the result."""
    quiet_nemo(verbose=False)
    config, out = from_cfg(TaskConfig, cfg.task, path="task"), Path(cfg.out_dir)
    more = {"embed": partial(embed, load_shipped(map_location="cpu"))} if cfg.features == "affinity" else {}
    task = build_task(config, **more)
    with Progress() as bar:
        shown = bar.add_task("Sequences", total=sum(config.counts.values()))
        paths = write_task(task, cfg.data_dir, config, features=cfg.features, advance=lambda: bar.advance(shown))
    tests = {split: read_split(path) for split, path in paths.items() if split != "train"}
    result: dict = {"classes": {split: len(names) for split, names in task.classes.items()}, "counts": config.counts}
    result |= {"steps": cfg.trainer.max_steps, "seeds": list(cfg.seeds), "seconds": [], "heads": {}, "clustering": {}}
    ways = ("heads",) if cfg.model.get("heads") else ("heads", "clustering")
    result["references"] = score_references(tests)
    cfg.model.train_ds.manifest_filepath = str(paths["train"])
    for seed in cfg.seeds:
        seed_everything(seed)
        trainer, start = Trainer(**cfg.trainer), time.process_time()
        model = SortformerLabeler(cfg=cfg.model, trainer=trainer)
        trainer.fit(model)
        result["seconds"].append(round(time.process_time() - start))
        answers = {}
        for split, data in tests.items():
            for way in ways:
                found = model.label(data.embeddings, override_config={"assignment": way})
                for kind, truths in data.labels.items():
                    answers[split, way, kind] = [one.activity for one in found if one.kind == kind]
                    scores = score_answers(answers[split, way, kind], truths)._asdict()
                    result[way].setdefault(part_name(split, kind), []).append(scores)
    print(write_result(out, config.name, result))
    drawn = {f"{way} {kind}".strip(): answers["unseen", way, kind][cfg.drawn] for _, way, kind in answers}
    picture, seconds = out / "images" / f"task_{config.name}.png", task.frame_seconds
    draw_sequence(picture, tests["unseen"], cfg.drawn, drawn, title=cfg.title, frame_seconds=seconds)
    model.save_to(str(Path(cfg.data_dir) / f"task_{config.name}.nemo"))


if __name__ == "__main__":
    main()
