"""ScrollSR: video super-resolution of a scroll's frames, by FlashVSR or frame by frame."""
