# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Packaging: requirements from requirements.txt, the YAMLs of configs/ and the checkpoints inside the wheel."""

import re
import shutil
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

RANGES = {
    # What an installation may have; what is tested stands in requirements.txt. A floor is the oldest release with the
    # interface we call (or the one that NeMo asks for), a ceiling the next release that may break it.
    "torch": ">=2.6,<3",
    "nemo_toolkit[asr]": ">=3.0.0,<3.1",  # nemo_bridge leans on private parts of NeMo
    "lightning": ">2.2.1,<=2.4.0",
    "omegaconf": ">=2.3,<2.4",
    "PyYAML": ">=6,<7",
    "hydra-core": ">=1.3.2,<1.4",
    "lhotse": ">=1.33,<2",
    "sentencepiece": ">=0.2,<1",
    "torchmetrics": ">=1.0,<2",
    "numpy": ">=1.26,<3",
    "scipy": ">=1.11,<2",
    "soundfile": ">=0.12,<1",
    "soxr": ">=0.3.7,<2",
    "pyannote.core": ">=5.0,<7",
    "pyannote.metrics": ">=3.2,<5",
    "typer": ">=0.12,<1",
    "rich": ">=13,<16",
    "matplotlib": ">=3.8,<4",
    "espeakng-loader": ">=0.2.4,<0.3",
    "scikit-learn": ">=1.3,<2",
    "librosa": ">=0.10,<1",
    "meeteval": ">=0.4.1,<0.5",
    "onnx": ">=1.18,<2",
    "onnxscript": ">=0.5,<1",
    "onnxruntime": ">=1.20,<2",
    "starlette": ">=1.0,<2",
    "uvicorn": ">=0.54,<1",  # its WebSocket stops reading while the application does not take what there is
    "websockets": ">=13,<18",
    "sounddevice": ">=0.4.6,<0.6",
    "torchao": ">=0.9,<1",
}


def read_requirements(path: Path) -> dict[str, list[str]]:
    """Map each ``# [section]`` of requirements.txt to its requirements, with ranges for the pins that have one."""
    sections: dict[str, list[str]] = {}
    section = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"# \[(\w+)\]", line.strip()):
            section = sections.setdefault(header[1], [])
        elif line.strip() and not line.startswith("#"):
            name, _, pin = line.strip().partition("==")
            if section is None or not pin:
                raise ValueError(f"{path}: `{line}` must be `name==version` below a `# [section]` line.")
            section.append(f"{name}{RANGES.get(name, f'>={pin}')}")
    return sections


def read_version(path: Path) -> str:
    """Read ``__version__`` without importing the package."""
    match = re.search(r'^__version__ = "(.+)"$', path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if match is None:
        raise ValueError(f'{path} has no line `__version__ = "..."`.')
    return match[1]


class BuildWithConfigs(build_py):
    """Copies the YAMLs of the top-level ``configs/`` into the package; in a checkout they are read where they lie."""

    def run(self) -> None:
        """Build as usual, then add the YAMLs."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "nemo_sortformer" / "configs"
        shutil.rmtree(target, ignore_errors=True)  # a file renamed in configs/ must not survive in build/
        for source, copy in self.config_files(target):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def config_files(self, target: Path) -> list[tuple[Path, Path]]:
        """Pairs of (YAML in the checkout, its place in the package)."""
        configs = ROOT / "configs"
        return [(path, target / path.relative_to(configs)) for path in sorted(configs.rglob("*.yaml"))]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """List the YAMLs among the built files, so that they are recorded and removed with the package."""
        target = Path(self.build_lib) / "nemo_sortformer" / "configs"
        copies = [] if self.editable_mode else [str(copy) for _, copy in self.config_files(target)]
        return super().get_outputs(include_bytecode) + copies


requirements = read_requirements(ROOT / "requirements.txt")

setup(
    name="nemo_sortformer",
    version=read_version(ROOT / "nemo_sortformer" / "__init__.py"),
    description="SortFormer speaker diarization as a plug-in collection for NVIDIA NeMo",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The nemo_sortformer authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir={"": "."},  # an editable installation then is one path, and finds folders that are added later
    packages=find_packages(include=["nemo_sortformer", "nemo_sortformer.*"])
    + find_namespace_packages(include=["hydra_plugins", "hydra_plugins.*"]),
    package_data={"nemo_sortformer": ["py.typed", "checkpoints/*.nemo", "checkpoints/*.md", "serve/*.html"]},
    install_requires=requirements["core"],
    extras_require={
        "synth": requirements["synth"],
        "demo": requirements["synth"],
        "tasks": requirements["synth"] + requirements["tasks"],
        "words": requirements["words"],
        "serve": requirements["serve"],
        "mic": requirements["mic"],
        "export": requirements["export"],
        "fp8": requirements["fp8"],
        "dev": requirements["dev"] + requirements["serve"] + requirements["export"],
    },
    entry_points={"console_scripts": ["nemo-sortformer = nemo_sortformer.cli:main"]},
    cmdclass={"build_py": BuildWithConfigs},
    zip_safe=False,
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
)
