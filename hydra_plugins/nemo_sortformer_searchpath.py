# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Makes this package known to hydra: any script finds our YAMLs by `--config-name`, and NeMo builds our classes.

Hydra imports this file in every application of the environment, so it imports neither torch nor NeMo. `hydra_plugins`
is shared by all plug-ins and must stay without an `__init__.py`.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

_ALLOW_LIST = "nemo.core.classes.common"
"""The module of NeMo that holds its list of packages whose classes may be built."""
_STRATEGIES = "lightning.pytorch.strategies"
"""The module of Lightning that holds its list of strategies, to which `trainer.strategy=nemo_sortformer` is added."""


class NemoSortformerSearchPath(SearchPathPlugin):
    """Adds the folder of our YAMLs behind the script's own, and enters us in NeMo's allow-list if NeMo is there.

    Hydra calls this between the imports of a script and its main function. A script that uses NeMo's `hydra_runner`
    has imported NeMo by then, so no import has to be watched for; one that imports NeMo later, inside its main
    function, gets the YAMLs, and our classes once it imports `nemo_sortformer.modules` or a model itself.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by hydra once per application."""
        search_path.append(provider="nemo_sortformer", path=f"file://{config_folder()}")
        if _ALLOW_LIST in sys.modules:
            from nemo_sortformer.nemo_bridge.allow_list import register

            register()
        if _STRATEGIES in sys.modules:
            from nemo_sortformer.distributed.registration import register as register_strategy

            register_strategy()


def config_folder() -> Path:
    """Where our YAMLs are: inside an installed package, beside it in a checkout. The package is not imported."""
    spec = find_spec("nemo_sortformer")
    if spec is None or spec.origin is None:
        raise ImportError("The hydra plug-in of nemo_sortformer is installed, but nemo_sortformer is not.")
    package = Path(spec.origin).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"
