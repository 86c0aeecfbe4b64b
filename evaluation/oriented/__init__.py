"""Parts of the study of oriented minimal samples: scenes, trials, real photos."""
