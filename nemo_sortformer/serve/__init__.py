# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The small web server behind `nemo-sortformer serve`: many live streams through one model, and one page."""
