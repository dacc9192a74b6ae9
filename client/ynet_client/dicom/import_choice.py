"""The options of an import, and its summary."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ynet.data.dicom.frame import DisplayWindow
from ynet.data.dicom.matching import Segment
from ynet_client.dicom.deidentify import Dates

FrameChoice = Literal["refuse", "middle", "all"]


@dataclass(frozen=True)
class Choice:
    """The options of an import."""

    frames: FrameChoice = "refuse"
    window: DisplayWindow | None = None  # replaces each file's own
    dates: Dates = "none"
    segment: Segment = None  # the lesion's segment in a drawing with several
    automatic_masks: bool = False  # also use drawings that a model made
    no_mask_means_healthy: bool = False  # an image without a drawing has no lesion
    release: frozenset[str] = frozenset()  # quarantine reasons, or ids of quarantined objects
    regions: tuple[str, ...] = ()  # a mask for each, from the segment with its name as label

    def recorded(self, *, is_frame: bool) -> str:
        """Return the options that determine a picture, as the records store them. `is_frame`: one of several frames."""
        words = {
            "frames": self.frames if is_frame else "",
            "window": "{:g},{:g}".format(*self.window) if self.window else "",
            "dates": self.dates,
            "segment": "" if self.segment is None else str(self.segment),
            "regions": ",".join(self.regions),
            "automatic-masks": "yes" if self.automatic_masks else "",
            "no-mask-means-healthy": "yes" if self.no_mask_means_healthy else "",
        }
        return " ".join(f"{name}={word}" for name, word in words.items() if word)


class Summary(NamedTuple):
    """The counts that an import reports."""

    images: int  # in the manifest now
    patients: int
    masks: int
    imported: int  # new images of this import
    unlabelled: int  # objects that the labels do not name; not fetched
    left_out: dict[str, int]  # objects, by reason
    unmatched_labels: int  # ids in the labels that match no object
    unlabelled_patients: int  # patients found, none of whose objects has a label
    unmatched_why: dict[str, int]  # how such patients' ids differ from unmatched labels: `import_labels.USUAL`
    undrawn: int = 0  # images in the manifest whose lesion is unknown
    updated: int = 0  # existing images that were imported again because something changed
    stale: int = 0  # existing images that were kept although something changed
