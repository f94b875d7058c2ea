"""The progress of a study: what its fleets have done, the file that tells other processes, and the time left."""

from sdpet.study.progress.estimate import COUNTED, Event, Fleet, Phase, Timeline, time_left, timeline_of
from sdpet.study.progress.files import read_timelines
from sdpet.study.progress.tracker import StudyProgress, Tracker, thinned, work_of

__all__ = [
    "COUNTED",
    "Event",
    "Fleet",
    "Phase",
    "StudyProgress",
    "Timeline",
    "Tracker",
    "read_timelines",
    "thinned",
    "time_left",
    "timeline_of",
    "work_of",
]
