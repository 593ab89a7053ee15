"""What leaves the project: scores of given lesions, and the competition's submission."""
