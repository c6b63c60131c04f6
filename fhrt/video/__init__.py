"""Films: decode, restore and encode side by side, with time, sound, colour and rotation kept."""
