"""DICOM files: their elements, frames, compressed pixels and segmentations."""
