"""Pure tensor functions: returns, schedules, statistics, parameters and flat trees."""
