"""mergekit's YAML for the methods that both programs have: recipes written and read.

Data only; mergekit itself is never imported. Its conventions, as of 0.1.5: a setting is a
number, a list of numbers that are interpolated over the layers (the first counts for what
is outside them), or a list of such values with filters, of which the first that is part
of the parameter's name counts.
"""

from dogerm.mergekit.forms import FORMS
from dogerm.mergekit.reading import Config, from_yaml
from dogerm.mergekit.writing import to_yaml

__all__ = ["FORMS", "Config", "from_yaml", "to_yaml"]
