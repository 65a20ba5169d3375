"""What several workers give: quality of a study by recipes in flight, trials a second by executor and workers."""
