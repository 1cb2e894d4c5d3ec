# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The comparison behind docs/claims.md: systems x losses x seeds on one made task, resumable, with tables and plots.

`settings.py` says what is compared, `run.py` trains and tests one system, `grid.py` goes through all of them and can
be stopped at any time, `summary.py` turns the finished runs into numbers, `tables.py` and `plots.py` show them, and
`publish.py` puts them into docs/. The command is `python examples/ablation.py`.
"""
