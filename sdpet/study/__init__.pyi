from .launcher import launch as launch
from .options import SweepOptions as SweepOptions
from .plan import Composer as Composer
from .plan import Job as Job
from .plan import Plan as Plan
from .plan import make_plan as make_plan
from .status import status_text as status_text
from .status import study_status as study_status
