"""Bad pictures on purpose: pure seeded functions, shared by training and scoring."""
