"""The forms in which people have the data, and the official files made from them."""
