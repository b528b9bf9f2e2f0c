"""One masked model, trained: recipe -> optimiser and schedule -> loop."""
