"""Every parameter of the notebooks: name, type, default, meaning and valid values, once.

The parameters cells are written from the tables PARAMETERS (`make fix`), and `check_parameters` checks
against them. To add a parameter, add a row to the table of the notebook and use its name in a cell.
Values are checked before packages are installed, so nothing here imports torch, numpy or transformers.

check    what a parameter is; the check of its value
devices  the parameters that choose devices
setup    the parameters of 01
text     the parameters of several notebooks that say which text and model are read
corpus   the parameters of 02
dataset  the parameters of 03 and 03b
train    the parameters of 04
run      the parameters of 05 and 07 that say which run is used
predict  the parameters of 05
speed    the parameters of 06
use      the parameters of 07
"""
