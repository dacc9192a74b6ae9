"""Reading of DICOM files: elements, frames, compressed pixels and drawings."""
