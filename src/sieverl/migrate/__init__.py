"""Settings of other trainers as recipes of ours: TRL's configurations and scripts, verl's YAML and shell scripts."""

from sieverl.migrate.draft import Draft, Note
from sieverl.migrate.sources import convert
from sieverl.migrate.trl import from_trl
from sieverl.migrate.verl import from_verl

__all__ = ["Draft", "Note", "convert", "from_trl", "from_verl"]
