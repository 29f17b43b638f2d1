"""The parameters of 01."""

from mlm.parameters.devices import DEVICES

PARAMETERS = {"Hardware": DEVICES}  # {heading in the parameters cell: parameters}
