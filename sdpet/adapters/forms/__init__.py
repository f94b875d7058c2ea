"""The function of an adapter: sdpet's own forms, and what a form of one's own needs.

Files: protocol (what a form is), bottleneck (the paper's), pointwise (lowrank, gated, scale_shift), convolution (conv),
activation, stacking (several members at once), shape (what a form must fit), make (a form that fits),
call (calling it).
"""

from sdpet.adapters.forms.activation import activation_layer
from sdpet.adapters.forms.bottleneck import Bottleneck
from sdpet.adapters.forms.call import can_stack, compute, compute_stacked, takes_grid
from sdpet.adapters.forms.convolution import Conv
from sdpet.adapters.forms.make import FORM_CLASSES, check_class, form_class, make_form
from sdpet.adapters.forms.pointwise import Gated, LowRank, ScaleShift
from sdpet.adapters.forms.protocol import Form
from sdpet.adapters.forms.shape import FormShape, Site
from sdpet.adapters.forms.stacking import vmapped

__all__ = [
    "FORM_CLASSES",
    "Bottleneck",
    "Conv",
    "Form",
    "FormShape",
    "Gated",
    "LowRank",
    "ScaleShift",
    "Site",
    "activation_layer",
    "can_stack",
    "check_class",
    "compute",
    "compute_stacked",
    "form_class",
    "make_form",
    "takes_grid",
    "vmapped",
]
