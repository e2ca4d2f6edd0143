"""How wrong a derivative is: an estimate, a bound, and a report that says why."""

from .bound import ErrorBound as ErrorBound
from .bound import error_bound as error_bound
from .diagnose import VERDICTS as VERDICTS
from .diagnose import Diagnosis as Diagnosis
from .diagnose import diagnose as diagnose
from .estimate import ErrorEstimate as ErrorEstimate
from .estimate import error_estimate as error_estimate
