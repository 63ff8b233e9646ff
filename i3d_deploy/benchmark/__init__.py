"""The 320x3-frame protocol: videos per second that can be compared, and where the time goes."""
