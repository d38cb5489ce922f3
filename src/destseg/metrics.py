"""The metrics as functions of arrays, for scores and maps of any model.

Of scores, one an image: ``auroc``, ``average_precision``, ``f1_max``, all of them with
``image_metrics``, their curves with ``image_curves``.  Of maps against masks: ``aupro``, ``iap``,
``iap_at``, all with ``pixel_metrics`` after one sort, their curves with ``pixel_curves``; image by
image, in memory of a fixed size where that is wanted, with ``PixelCounts``.

>>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
0.75
"""

from destseg.evaluation.metrics import Curve as Curve
from destseg.evaluation.metrics import ImageMetrics as ImageMetrics
from destseg.evaluation.metrics import auroc as auroc
from destseg.evaluation.metrics import average_precision as average_precision
from destseg.evaluation.metrics import f1_max as f1_max
from destseg.evaluation.metrics import image_curves as image_curves
from destseg.evaluation.metrics import image_metrics as image_metrics
from destseg.evaluation.pixels import PixelCounts as PixelCounts
from destseg.evaluation.pixels import PixelMetrics as PixelMetrics
from destseg.evaluation.pixels import aupro as aupro
from destseg.evaluation.pixels import iap as iap
from destseg.evaluation.pixels import iap_at as iap_at
from destseg.evaluation.pixels import pixel_curves as pixel_curves
from destseg.evaluation.pixels import pixel_metrics as pixel_metrics
