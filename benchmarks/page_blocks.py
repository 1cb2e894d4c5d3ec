# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Tables that a command writes into a page, between `<!-- kind: name -->` and `<!-- end -->`; words stay."""

import re
from collections.abc import Mapping

from nemo_sortformer.config import ConfigError

NOT_YET = "*not measured yet*"
"""What stands in a block until the command has been run to its end."""
_BLOCK = r"(<!-- {kind}: (\w+) -->\n)(.*?)(<!-- end -->)"


def blocks(page: str, kind: str) -> dict[str, str]:
    """What stands in the blocks of one kind, by name."""
    found = re.finditer(_BLOCK.format(kind=kind), page, flags=re.DOTALL)
    return {block[2]: block[3].strip() for block in found}


def fill_blocks(page: str, kind: str, tables: Mapping[str, str]) -> str:
    """The page with every block of one kind holding the table of its name.

    Raises:
        ConfigError: there is no such table.
    """

    def fill(block: re.Match[str]) -> str:
        if block[2] not in tables:
            raise ConfigError(f"The page asks for the table `{block[2]}`, but there are only {sorted(tables)}.")
        return f"{block[1]}\n{tables[block[2]].strip()}\n\n{block[4]}"

    return re.sub(_BLOCK.format(kind=kind), fill, page, flags=re.DOTALL)
