# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`python -m nemo_sortformer` is `nemo-sortformer`."""

from nemo_sortformer.cli import main

if __name__ == "__main__":
    main()
