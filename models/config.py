"""The `[models]` table: where artefacts live and how audiences are grown."""

from typing import Annotated

import msgspec


class ModelsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[models]` table of `tagbid.toml`.

    models_dir: registry root. threads: of one training, 0 = all cores; more than one pays on idle cores only, on
    busy ones the threads wait for each other (ten times slower was seen). audience_days: how long an expanded
    audience lives. lease_s: how long a worker that stopped answering keeps an audience to itself.
    watch_s: how often `expand --watch` looks for new seeds. click_wait_s: how long after an impression a click still
    counts for it; younger impressions do not train.
    """

    models_dir: str = "var/models"
    threads: Annotated[int, msgspec.Meta(ge=0, le=1_024)] = 1
    audience_days: Annotated[int, msgspec.Meta(ge=1, le=400)] = 30
    lease_s: Annotated[int, msgspec.Meta(ge=10, le=86_400)] = 120
    watch_s: Annotated[float, msgspec.Meta(ge=0.1, le=3_600)] = 1.0
    click_wait_s: Annotated[int, msgspec.Meta(ge=1, le=30 * 86_400)] = 1_800
