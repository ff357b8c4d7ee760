"""What `mreg data verify` can find in a raw dataset: the code of each finding, its level, and the way out."""

from __future__ import annotations

from typing import NamedTuple

from registry.findings import Finding, Level


class Kind(NamedTuple):
    """One kind of finding."""

    level: Level
    hint: str
    summary: str  # what is wrong


# A code never changes its meaning.
KINDS = {
    "DATA001": Kind("error", "mreg data import writes it", "no training images"),
    "DATA002": Kind("error", "rename or remove it", "a file that is no image or label map"),
    "DATA003": Kind("note", "use .nii.gz", "images that are not opened"),
    "DATA004": Kind("error", "add the file or remove the case", "a channel is missing"),
    "DATA005": Kind("error", "add the channel to dataset.json or remove the file", "a channel too many"),
    "DATA006": Kind("error", "add it or remove the case", "no label map"),
    "DATA007": Kind("error", "remove it or add the image", "a label map without an image"),
    "DATA008": Kind("error", "", "no numTraining"),
    "DATA009": Kind("error", "", "another number of cases"),
    "DATA010": Kind("error", "replace the file", "cannot be read"),
    "DATA011": Kind("error", "replace them before importing", "NaN or infinite"),
    "DATA012": Kind("warning", "is it the right image?", "all voxels the same"),
    "DATA013": Kind("error", "import the images again with one --orientation", "orientation"),
    "DATA014": Kind("error", "correct the mask or add the label", "unknown label values"),
    "DATA015": Kind("note", "right for a case without the structure", "empty label map"),
    "DATA016": Kind("error", "resample it onto the image, or draw it again", "another grid"),
    "DATA017": Kind("warning", "remove one of them", "the same voxels twice"),
    "DATA018": Kind("error", "remove it: it is made anew", "unreadable splits"),
    "DATA019": Kind("error", "remove the file: it is made anew", "splits name unknown cases"),
    "DATA020": Kind("warning", "split by subject", "a subject in training and validation"),
    "DATA021": Kind("warning", "write paths relative to the dataset, or leave them out", "absolute paths"),
    "DATA022": Kind("warning", "move all cases of a subject to one side", "a subject in training and test"),
    "DATA023": Kind("warning", "remove the file: it is made anew", "splits forget cases"),
    "DATA024": Kind("warning", "set sform and qform in the header", "no orientation in the header"),
    "DATA025": Kind("warning", "import the images again: both become the sform", "sform and qform differ"),
    "DATA026": Kind("note", "", "what image_orientation would be"),
    "DATA027": Kind("warning", "move the files to imagesTr and labelsTr", "the key `dataset`"),
    "DATA028": Kind("warning", "for example Dataset501_SpinalCordT2w", "the folder is not called DatasetNNN_Name"),
}


def finding(
    code: str, path: str, message: str, hint: str = "", level: Level | None = None, line: int | None = None
) -> Finding:
    """Return a finding with the level and hint of its kind, unless it has its own."""
    kind = KINDS[code]
    return Finding(code=code, level=level or kind.level, message=message, path=path, line=line, hint=hint or kind.hint)
